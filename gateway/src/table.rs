//! The configuration, built: one immutable generation.
