//! Sockets and connections: TLS by SNI, limits and deadlines, PROXY protocol, the strict head check.
