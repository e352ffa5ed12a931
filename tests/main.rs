//! Everything through the wire: the real binary on real sockets, between clients and origins that misbehave on purpose.
//!
//! | file | what it holds the gateway to |
//! |---|---|
//! | `golden/*.txt` | one behaviour per file, readable like a bug report; run by `golden.rs` |
//! | `routing.rs` | which request goes where, and in which form |
//! | `headers.rs` | what is added, dropped and never believed |
//! | `proxying.rs` | bodies, streams, upgrades, trailers, aborts |
//! | `faults.rs` | upstreams that refuse, reset, stall, lie |
//! | `services.rs` | balancing, retries, breakers, canaries, mirrors |
//! | `tls.rs` | certificates by name, client certificates, protocols |
//! | `configuration.rs` | files that are wrong, and what is said about them |
//! | `reload.rs` | SIGHUP, good and bad; the end |
//! | `watching.rs` | log, metrics, admin endpoint |
//! | `examples.rs` | every file in `conf/`, and the demonstration's tour |
//! | `tidy.rs` | the borders of the house |

mod configuration;
mod examples;
mod faults;
mod golden;
mod headers;
mod proxying;
mod reload;
mod routing;
mod services;
mod support;
mod tidy;
mod tls;
mod watching;
