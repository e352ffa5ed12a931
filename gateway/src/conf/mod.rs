//! The TOML exactly as written: positions, tree, merge with provenance, tree to types.
//!
//! [`load`] is the door: files in, typed [`Conf`] out, or every [`Fault`] of every file at once. The way: `source`
//! (files as one range of offsets) → `tree` (values with places, references resolved) → `load` (sections, names) →
//! `merge` (policies into routes) → `de` (types). `explain` and `schema` look at the same tree and the same types.

pub mod de;
mod explain;
mod fault;
mod include;
mod load;
#[cfg(test)]
mod manual;
mod merge;
mod schema;
mod server;
mod source;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tidy;
mod tree;

pub use explain::{Setting, Settings};
pub use fault::{Fault, Faults, did_you_mean};
pub use load::{Conf, Item, Loaded, Options, Route, load, read};
pub use schema::schema;
pub use server::Server;
pub use source::{Place, Sources};
pub use tree::{Entry, Node, Span, Text, Value};

use crate::{admin, listen, route, service};
