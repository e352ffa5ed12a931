//! Where a request can end: at a service, or in an answer of the gateway's own.

pub mod redirect;
pub mod reply;
mod services;

pub use redirect::Redirect;
pub use reply::Fixed;
pub use services::{Leg, Services};

/// What a route leads to.
pub enum Destination {
    Services(Services),
    Redirect(Box<Redirect>),
    Reply(Box<Fixed>),
}

impl Destination {
    /// The services that requests may be sent to; none for own answers.
    pub fn legs(&self) -> &[Leg] {
        match self {
            Destination::Services(services) => &services.legs,
            _ => &[],
        }
    }
}
