//! Between Pingora's session and the house: heads in, replies out.
