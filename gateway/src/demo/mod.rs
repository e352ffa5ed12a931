//! Example services that the binary carries itself.
