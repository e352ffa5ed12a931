//! Pingora's hooks: short, and free of policy.
