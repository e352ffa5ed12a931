//! The Portcullis gateway: everything that touches Pingora, sockets, time and disk. See ARCHITECTURE.md.

pub mod admin;
pub mod cli;
pub mod client;
pub mod clock;
pub mod conf;
pub mod deadline;
pub mod demo;
pub mod destination;
pub mod forwarded;
pub mod id;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod path;
pub mod proxy;
pub mod reload;
pub mod rescue;
pub mod route;
pub mod service;
pub mod systemd;
pub mod table;
pub mod wire;
