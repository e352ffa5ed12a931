//! `[server]`: what holds for the whole process.

use crate::path::PathPolicy;
use filters::units::{ByteSize, Cidr, Span};
use schemars::JsonSchema;
use serde::Deserialize;
use std::num::{NonZeroU16, NonZeroU32};

/// What holds for the whole process.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "server")]
pub struct Server {
    /// Worker threads. Default: the number of cores.
    pub threads: Option<NonZeroU16>,
    /// The proxies in front of this one: only from these addresses do forwarded headers and PROXY headers count.
    /// Default: none. Never list a network that clients can send from.
    pub trusted: Vec<Cidr>,
    /// How long running requests may take to end when the gateway stops. Default: `"30s"`.
    pub drain: Span,
    /// The most connections at a time, over all listeners. Default: what the limit on open files allows.
    pub max_connections: Option<NonZeroU32>,
    /// The most connections at a time from one address (IPv6: from one /64). Default: no limit, since many clients may
    /// share an address.
    pub max_connections_per_ip: Option<NonZeroU32>,
    /// The largest request head: target and headers together. A larger one gets 431. Default: `"32KiB"`.
    pub request_head: ByteSize,
    /// The largest request body where a route does not say otherwise. A larger one gets 413. Default: `"10MB"`.
    pub request_body: ByteSize,
    /// What is done with paths that different servers read differently.
    pub path: PathPolicy,
    /// Where the access log goes and what stands in it.
    pub log: crate::log::Conf,
}

impl Default for Server {
    fn default() -> Server {
        Server {
            threads: None,
            trusted: vec![],
            drain: Span::secs(30),
            max_connections: None,
            max_connections_per_ip: None,
            request_head: ByteSize(32 << 10),
            request_body: ByteSize(10_000_000),
            path: PathPolicy::default(),
            log: crate::log::Conf::default(),
        }
    }
}
