//! What two filters, or a filter and the log, share about one request. A field enters here only when two files need it.

use crate::filter::{GO, Reply, Step};
use crate::identity::Identity;
use crate::units::Mode;
use http::{HeaderValue, Uri};
use smallvec::SmallVec;
use smol_str::SmolStr;
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// The facts about one request that the gateway established before any filter ran, and what the filters decided since.
#[derive(Debug)]
pub struct Cx {
    /// Monotonic time in nanoseconds, from an arbitrary start; read once per request.
    pub now: u64,
    /// Wall-clock time in milliseconds since the Unix epoch.
    pub wall: u64,
    /// The client's address: the socket's, or what trusted proxies say.
    pub ip: IpAddr,
    /// The client spoke TLS (to us, or to a trusted proxy).
    pub secure: bool,
    /// The host that was asked for: lower case, no port.
    pub host: SmolStr,
    /// The connection's TLS facts, if it is encrypted.
    pub tls: Option<Arc<Tls>>,
    /// The name of the route that matched.
    pub route: SmolStr,
    /// What the route's pattern captured.
    pub captures: Captures,
    /// What the client asked for, where the route's rewrite changed it: captures are ranges of this path.
    pub asked: Option<Uri>,
    /// The request's id, as logged and sent upstream.
    pub id: SmolStr,
    /// The request is gRPC: refusals must be gRPC statuses.
    pub grpc: bool,
    /// Who sent it, as far as `auth` could prove it.
    pub identities: SmallVec<[Arc<Identity>; 1]>,
    /// How one would prove it, where `auth` was asked and nobody did.
    pub challenges: Option<Arc<[HeaderValue]>>,
    /// The step that is at work, for the record of its decisions.
    pub step: &'static str,
    pub decisions: SmallVec<[Decision; 1]>,
}

/// What is known of an encrypted connection.
#[derive(Debug, Default, Clone)]
pub struct Tls {
    pub sni: Option<SmolStr>,
    pub version: &'static str,
    pub cipher: &'static str,
    /// The verified client certificate.
    pub cert: Option<Cert>,
}

/// A verified client certificate.
#[derive(Debug, Default, Clone)]
pub struct Cert {
    pub cn: SmolStr,
    /// Subject alternative names: DNS names, addresses, URIs, mail addresses.
    pub san: Vec<SmolStr>,
    /// SHA-256 of the DER, in hex.
    pub fingerprint: SmolStr,
}

/// One decision: which step, by which rule, enforced or only observed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub step: &'static str,
    pub rule: Cow<'static, str>,
    pub mode: Mode,
    pub reason: Cow<'static, str>,
}

/// The values of a pattern's `{name}`s, as ranges of the canonical path.
#[derive(Debug, Default, Clone)]
pub struct Captures {
    pub names: Arc<[SmolStr]>,
    pub spans: SmallVec<[(u32, u32); 4]>,
}

impl Captures {
    /// The captured text; `path` is the canonical path that was matched.
    pub fn get<'p>(&self, name: &str, path: &'p str) -> Option<&'p str> {
        let nth = self.names.iter().position(|n| n == name)?;
        let &(from, to) = self.spans.get(nth)?;
        path.get(from as usize..to as usize)
    }
}

impl Cx {
    pub fn new(now: u64, wall: u64, ip: IpAddr) -> Cx {
        Cx {
            now,
            wall,
            ip,
            secure: false,
            host: SmolStr::default(),
            tls: None,
            route: SmolStr::default(),
            captures: Captures::default(),
            asked: None,
            id: SmolStr::default(),
            grpc: false,
            identities: SmallVec::new(),
            challenges: None,
            step: "",
            decisions: SmallVec::new(),
        }
    }

    /// The one place that knows `observe`: the decision is written down, and stops the request only when enforced.
    /// `reply` is built only then.
    pub fn refuse(
        &mut self,
        mode: Mode,
        rule: impl Into<Cow<'static, str>>,
        reason: impl Into<Cow<'static, str>>,
        reply: impl FnOnce() -> Reply,
    ) -> Step {
        if mode == Mode::Off {
            return GO;
        }
        self.decisions.push(Decision { step: self.step, rule: rule.into(), mode, reason: reason.into() });
        if mode == Mode::Enforce { Step::Break(Box::new(reply())) } else { GO }
    }

    /// The decision that ended the request, if one did.
    pub fn verdict(&self) -> Option<&Decision> {
        self.decisions.iter().rev().find(|d| d.mode == Mode::Enforce)
    }
}

impl Default for Cx {
    fn default() -> Cx {
        Cx::new(0, 0, IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}
