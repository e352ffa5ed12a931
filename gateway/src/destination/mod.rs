//! Where a request can end besides a service: an answer of the gateway's own.

pub mod redirect;
pub mod reply;

pub use redirect::Redirect;
pub use reply::Fixed;
