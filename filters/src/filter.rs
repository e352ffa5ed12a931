//! The trait of a step, and the values it deals in. A filter does no I/O, reads no clock, spawns nothing and cannot see
//! another filter's scratch: what it knows comes in as arguments, what it wants goes out as a value.

use crate::auth::Sources;
use crate::cx::Cx;
use crate::head::{RequestHead, ResponseHead};
use crate::keep::Keep;
use crate::short::Bad;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde::de::DeserializeOwned;
use smol_str::SmolStr;
use std::fmt::Debug;
use std::ops::{ControlFlow, Range};

/// What a step wants next: go on, or answer now. `?` hands the answer to the pipeline.
pub type Step = ControlFlow<Box<Reply>>;
pub const GO: Step = Step::Continue(());

/// An answer of the gateway's own.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Body,
}

/// What the gateway's own answer carries.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    Empty,
    /// `application/problem+json` (RFC 9457), or a gRPC status for gRPC clients; `detail` is shown to the client.
    Problem {
        detail: String,
    },
    /// As it is; its type stands in the headers.
    Bytes(Bytes),
}

impl Reply {
    /// A refusal; `detail` is shown to the client and must not name what it need not know.
    pub fn problem(status: u16, detail: impl Into<String>) -> Reply {
        Reply { status, headers: vec![], body: Body::Problem { detail: detail.into() } }
    }
    pub fn empty(status: u16) -> Reply {
        Reply { status, headers: vec![], body: Body::Empty }
    }
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Reply {
        self.headers.push((name, value));
        self
    }
}

/// Why a step cannot be built. The key's place is used where the error has none of its own.
#[derive(Debug, Clone)]
pub struct BuildError {
    pub at: Option<Range<usize>>,
    pub why: String,
    pub hint: Option<String>,
}

impl BuildError {
    pub fn new(why: impl Into<String>) -> BuildError {
        BuildError { at: None, why: why.into(), hint: None }
    }
    pub fn at(mut self, span: Range<usize>) -> BuildError {
        self.at = Some(span);
        self
    }
    /// A fault within the string whose place in the file is `span`. The place is exact where the string stands there as
    /// it is; with escapes in it, the whole string is meant.
    pub fn within(span: Range<usize>, text: &str, bad: Bad) -> BuildError {
        let plain = span.len() == text.len() + 2;
        let at = if plain { span.start + 1 + bad.at.start..span.start + 1 + bad.at.end } else { span };
        BuildError::new(bad.why).at(at)
    }
    pub fn hint(mut self, hint: impl Into<String>) -> BuildError {
        self.hint = Some(hint.into());
        self
    }
}

/// What a step may use while it is built.
pub struct BuildCx<'a> {
    /// State that outlives a reload.
    pub keep: &'a Keep,
    /// The table that wrote the value at an offset, such as `policy.edge`: the name of a counter.
    pub origin: &'a dyn Fn(usize) -> String,
    /// The route that is being built.
    pub route: &'a str,
    /// What its pattern captures.
    pub captures: &'a [SmolStr],
    /// What proves identities.
    pub sources: &'a Sources,
}

#[cfg(not(feature = "schema"))]
pub trait Conf: DeserializeOwned + Debug {}
#[cfg(not(feature = "schema"))]
impl<T: DeserializeOwned + Debug> Conf for T {}
#[cfg(feature = "schema")]
pub trait Conf: DeserializeOwned + Debug + schemars::JsonSchema {}
#[cfg(feature = "schema")]
impl<T: DeserializeOwned + Debug + schemars::JsonSchema> Conf for T {}

/// One step. Hooks that are not written do nothing and cost nothing.
pub trait Filter: Sized + Send + Sync + 'static {
    /// The TOML under the step's key; the docs of its fields are the manual.
    type Conf: Conf;
    /// What this step remembers about one request between its hooks. Box what is large.
    type Scratch: Default + Send + Sync;
    /// A complete table: built by a test, run by a bench, shown in the documentation.
    const EXAMPLE: &'static str;
    /// The step looks at request bodies; without it `request_body` is never called.
    const REQUEST_BODY: bool = false;
    /// The step looks at response bodies; without it `response_body` is never called.
    const RESPONSE_BODY: bool = false;

    /// `None`: this step has nothing to do here.
    fn build(conf: &Self::Conf, cx: &BuildCx) -> Result<Option<Self>, BuildError>;

    /// Before routing to the destination. A header changed here is seen by the steps after it and by the upstream.
    fn request(&self, _: &mut Self::Scratch, _: &mut RequestHead, _: &mut Cx) -> Step {
        GO
    }
    /// A chunk of the request's body on its way to the upstream; `None` when only the end is left to tell.
    /// A step may change the chunk, or hold it back by leaving it empty.
    fn request_body(&self, _: &mut Self::Scratch, _chunk: &mut Option<Bytes>, _end: bool, _: &mut Cx) -> Step {
        GO
    }
    /// The response's head, from upstream or the gateway's own. `request` is the head that was sent upstream.
    fn response(&self, _: &mut Self::Scratch, _: &mut ResponseHead, _request: &RequestHead, _: &mut Cx) {}
    /// A chunk of the response's body; as `request_body`.
    fn response_body(&self, _: &mut Self::Scratch, _chunk: &mut Option<Bytes>, _end: bool, _: &mut Cx) {}
    /// The request is over, whatever happened.
    fn done(&self, _: &mut Self::Scratch, _: &Cx) {}
}
