//! What may happen to a request on its way through the gateway.
//!
//! A request passes the steps of the one list below in its order, and the response passes those that were entered in
//! the reverse order. Each step is one module: its configuration, its behaviour, its manual and its tests.
//! There is no I/O here, no clock, no socket and no global state: see [`filter::Filter`].
#![forbid(unsafe_code)]

pub mod cx;
pub mod expr;
pub mod filter;
pub mod head;
pub mod keep;
pub mod nets;
pub mod pipeline;
#[macro_use]
mod registry;
pub mod short;
pub mod units;

pub mod response;

use bytes::Bytes;
use cx::Cx;
use filter::{BuildCx, BuildError, Filter, Step};
use head::{RequestHead, ResponseHead};

filters! {
    /// Headers of the response: set, append, remove.
    response::Response,
}
