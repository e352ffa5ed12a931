//! One record per request: what is written, in which form, and where to.
