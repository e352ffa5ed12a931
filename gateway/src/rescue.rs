//! Pingora's errors as answers.
