//! The request's target, made canonical once: routed, inspected and forwarded in the same form.
