//! Where a request can go besides a service: redirect, reply.
