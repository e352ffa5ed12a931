//! A SecLang engine: reads the rules of the OWASP Core Rule Set (and what operators write beside them) and runs them on HTTP
//! messages. A library without I/O: bytes in, verdict out.
//!
//! ```
//! use seclang::{Connection, Engine, Program, Settings, Transaction};
//! use std::sync::Arc;
//!
//! let rules = r#"SecRule ARGS "@rx <script" "id:1,phase:2,deny,t:none,t:lowercase,msg:'script'""#;
//! let program = Program::parse("demo.conf", rules, &seclang::NoFiles)?;
//! let engine = Arc::new(Engine::new(Arc::new(program), &Settings::default()));
//! let mut tx = Transaction::new(engine);
//! tx.connection(&Connection { client: "192.0.2.1", ..Connection::default() });
//! tx.request_line(b"GET", b"/?q=%3CScript%3E", b"HTTP/1.1");
//! tx.request_headers_end();
//! assert!(tx.request_body_end().stops());
//! assert_eq!(tx.matches()[0].rule, 1);
//! # Ok::<(), seclang::LoadError>(())
//! ```
#![forbid(unsafe_code)]

mod body;
pub mod builtin;
#[cfg(feature = "conformance")]
pub mod conformance;
mod engine;
mod eval;
mod exec;
mod link;
mod operators;
mod parse;
mod plan;
mod slow;
mod state;
mod store;
mod transaction;
mod transform;
mod vars;
mod verdict;

pub use engine::{Engine, Settings};
pub use link::{Options, Program, Rule};
pub use parse::{EngineMode, LimitAction, LoadError, Loader, NoFiles, Place, Source};
pub use transaction::{Connection, Transaction};
pub use transform::Transform;
pub use verdict::{Decision, Match, Part, Scores};
