//! Sockets and connections: TLS by SNI, limits and deadlines, PROXY protocol, the strict head check.
//!
//! [`build`] reads the configuration and its files, [`Listeners::bind`] binds, [`Listeners::apply`] serves: three steps, so that
//! nothing half-started is ever left. What they serve is any Pingora application; its hooks find their connection with [`conn`].

pub mod check;
mod conf;
mod conn;
mod front;
mod limits;
mod link;
mod listeners;
mod plan;
mod preamble;
mod socket;
mod sys;
mod tls;

#[cfg(test)]
mod tests;

pub use check::{Refusal, Rules};
pub use conf::{Addr, Alpn, Bind, Client, Conf, FileMode, Pem, Redirect, Tls, Version};
pub use conn::{Conn, conn};
pub use front::{Journal, LINE};
pub use listeners::{Bound, Listeners, Stat, Worker};
pub use plan::{Built, Fault, Terms, build};
pub use tls::Certificate;
