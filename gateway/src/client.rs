//! The gateway's own upstream calls.
