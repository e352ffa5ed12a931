//! What may happen to a request on its way through the gateway.
//!
//! A request passes the steps of the one list below in its order, and the response passes those that were entered in
//! the reverse order. Each step is one module: its configuration, its behaviour, its manual and its tests.
//! There is no I/O here, no clock, no socket and no global state: see [`filter::Filter`].
#![forbid(unsafe_code)]

pub mod cx;
mod edit;
pub mod expr;
pub mod filter;
pub mod head;
pub mod identity;
pub mod keep;
pub mod nets;
pub mod pipeline;
#[macro_use]
mod registry;
pub mod short;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod units;

pub mod allow;
pub mod auth;
pub mod compress;
pub mod cors;
pub mod ip;
pub mod limit;
pub mod request;
pub mod response;
pub mod size;

use bytes::Bytes;
use cx::Cx;
use filter::{BuildCx, BuildError, Filter, Step};
use head::{RequestHead, ResponseHead};

// The response passes the list from the bottom up: what the upstream answered is compressed last of all, after
// `response` has dressed it.
filters! {
    /// Compression of responses.
    compress::Compress,
    /// Headers of the response: set, append, remove. Also of the gateway's own answers.
    response::Response,
    /// Which addresses may come in.
    ip::Ip,
    /// Which web pages of other origins may use this.
    cors::Cors,
    /// How often a client may ask, and how many requests it may have under way.
    limit::ByAddress,
    /// Who it must come from: tokens and keys.
    auth::Auth,
    /// What must hold of it, whoever sent it.
    allow::Allow,
    /// How large a request may be.
    size::Size,
    /// Headers of the request to the upstream: set, append, remove.
    request::Request,
}

#[cfg(all(test, feature = "schema"))]
mod tests {
    use super::*;

    #[test]
    fn editors_know_every_key_and_refuse_others() {
        let schema = schemars::schema_for!(Policy).to_value();
        assert_eq!(schema["additionalProperties"], false);
        for kind in KINDS {
            let key = &schema["properties"][kind.key];
            assert!(key["description"].is_string(), "{} has no description", kind.key);
        }
        for (name, def) in schema["$defs"].as_object().unwrap() {
            let Some(keys) = def["properties"].as_object() else { continue };
            assert_eq!(def["additionalProperties"], false, "{name}");
            for (key, value) in keys {
                assert!(value["description"].is_string(), "{name}.{key} has no description");
            }
        }
        let types = &schema["$defs"]["Compress"]["properties"]["types"]["default"];
        assert_eq!((&types[0], &types[1]), (&"text/*".into(), &"*+json".into()), "defaults stand as they are written");
    }
}
