//! Endpoints as Pingora wants them: one finished template for each, cloned for each request.
//!
//! Three traps of Pingora are closed here: every timeout that is not set is endless, TLS with an empty name verifies
//! nothing, and connections are reused regardless of the CA and protocol they were made with, unless a group key
//! tells them apart.

use super::conf::{Conf, Proto, Target, Timeout, Tls};
use super::mix;
use filters::filter::BuildError;
use pingora::protocols::ALPN;
use pingora::tls::pkey::{PKey, Private};
use pingora::tls::x509::X509;
use pingora::upstreams::peer::{HttpPeer, PeerOptions};
use pingora::utils::tls::CertKey;
use serde_spanned::Spanned;
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Streams that share one HTTP/2 connection to an endpoint; Pingora's own default is 1.
const H2_STREAMS: usize = 128;
const H2_PING: Duration = Duration::from_secs(30);

/// What the peers of one service have in common.
#[derive(Debug)]
pub struct Template {
    tls: Option<Armed>,
    options: PeerOptions,
    group: u64,
}

#[derive(Debug)]
struct Armed {
    sni: Option<String>,
    client: Option<Arc<CertKey>>,
}

impl Template {
    pub fn build(conf: &Conf, faults: &mut Vec<BuildError>) -> Template {
        let mut options = PeerOptions::new();
        set_timeouts(&mut options, &conf.timeout);
        options.idle_timeout = Some(conf.keepalive.0);
        options.max_h2_streams = H2_STREAMS;
        options.h2_ping_interval = (conf.proto != Proto::H1).then_some(H2_PING);
        let tls = conf.tls.0.as_ref();
        options.alpn = alpn(conf.proto, tls.is_some());
        if let Err(why) = fits(conf.proto, tls.is_some()) {
            faults.push(BuildError::new(why));
        }
        let mut files = String::new();
        let armed = tls.map(|tls| arm(tls, &mut options, &mut files, faults));
        if let Some(tls) = tls.filter(|t| t.verify) {
            named(tls, &conf.to, faults);
        }
        // Connections are told apart by what they were made with, not by the service's name: services that agree share.
        let group = mix::text(&format!("{:?} {:?} {:?} {files}", conf.proto, options.alpn, tls.map(|t| t.verify)));
        Template { tls: armed, options, group }
    }

    /// The peer behind an address that is resolved: Pingora itself would resolve names blocking, and panic.
    pub fn inet(&self, addr: SocketAddr, host: Option<&str>) -> HttpPeer {
        self.finish(HttpPeer::new(addr, self.tls.is_some(), self.sni(host)))
    }

    pub fn unix(&self, path: &str) -> Result<HttpPeer, String> {
        let peer = HttpPeer::new_uds(path, self.tls.is_some(), self.sni(None));
        peer.map(|p| self.finish(p)).map_err(|e| format!("unix socket {path}: {e}"))
    }

    fn sni(&self, host: Option<&str>) -> String {
        let set = self.tls.as_ref().and_then(|t| t.sni.as_deref());
        match (&self.tls, set.or(host)) {
            (Some(_), Some(name)) => name.trim_end_matches('.').into(),
            _ => String::new(),
        }
    }

    fn finish(&self, mut peer: HttpPeer) -> HttpPeer {
        peer.options = self.options.clone();
        peer.group_key = self.group;
        peer.client_cert_key = self.tls.as_ref().and_then(|t| t.client.clone());
        peer
    }
}

/// Pingora knows one limit for reads. It gets the longer of the two, and whoever proxies watches the first byte.
pub fn set_timeouts(options: &mut PeerOptions, timeout: &Timeout) {
    options.connection_timeout = Some(timeout.connect());
    options.total_connection_timeout = Some(timeout.connect() * 2);
    options.read_timeout = Some(timeout.first_byte().max(timeout.idle()));
    options.write_timeout = Some(timeout.idle());
}

/// Without TLS there is nothing to negotiate: `h2c` is spoken by prior knowledge, everything else is HTTP/1.1.
fn alpn(proto: Proto, tls: bool) -> ALPN {
    match proto {
        Proto::H1 => ALPN::H1,
        Proto::H2 | Proto::H2c => ALPN::H2,
        Proto::Auto if tls => ALPN::H2H1,
        Proto::Auto => ALPN::H1,
    }
}

fn fits(proto: Proto, tls: bool) -> Result<(), &'static str> {
    match (proto, tls) {
        (Proto::H2, false) => Err("proto \"h2\" needs `tls`; without TLS it is \"h2c\""),
        (Proto::H2c, true) => Err("proto \"h2c\" is HTTP/2 without TLS; with `tls` it is \"h2\""),
        _ => Ok(()),
    }
}

fn arm(tls: &Tls, options: &mut PeerOptions, files: &mut String, faults: &mut Vec<BuildError>) -> Armed {
    options.verify_cert = tls.verify;
    options.verify_hostname = tls.verify;
    let ca = tls.ca.as_ref().and_then(|file| certificates(file, files, faults));
    options.ca = ca.map(|all| Arc::new(all.into_boxed_slice()));
    let client = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            let (chain, private) = (certificates(cert, files, faults), private_key(key, files, faults));
            chain.zip(private).and_then(|(chain, private)| pair(chain, private, key, faults))
        }
        (Some(one), None) | (None, Some(one)) => {
            let missing = if tls.key.is_none() { "key" } else { "cert" };
            faults.push(BuildError::new(format!("expected `{missing}` beside it")).at(one.span()));
            None
        }
        (None, None) => None,
    };
    Armed { sni: tls.sni.as_ref().map(|s| s.get_ref().clone()), client }
}

/// A verified name is needed for every endpoint; an IP address is none that Pingora could verify.
fn named(tls: &Tls, to: &[Spanned<Target>], faults: &mut Vec<BuildError>) {
    match &tls.sni {
        Some(sni) if sni.get_ref().is_empty() || sni.get_ref().parse::<std::net::IpAddr>().is_ok() => {
            let why = format!("sni \"{}\": expected a host name that the certificate carries", sni.get_ref());
            faults.push(BuildError::new(why).at(sni.span()));
        }
        Some(_) => {}
        None => {
            for target in to.iter().filter(|t| t.get_ref().addr.host().is_none()) {
                let why = format!("{}: TLS needs a host name to verify", target.get_ref().addr);
                faults.push(
                    BuildError::new(why).at(target.span()).hint("set tls.sni to the name that the certificate carries"),
                );
            }
        }
    }
}

fn read(file: &Spanned<String>, files: &mut String, faults: &mut Vec<BuildError>) -> Option<Vec<u8>> {
    match fs::read(file.get_ref()) {
        Ok(bytes) => {
            // Part of the group key: connections made with other contents are not reused.
            let _ = write!(files, "{} {:x} ", file.get_ref(), bytes.iter().fold(0, |h, b| mix::pair(h, *b as u64)));
            Some(bytes)
        }
        Err(e) => {
            faults.push(BuildError::new(format!("cannot read {}: {e}", file.get_ref())).at(file.span()));
            None
        }
    }
}

fn certificates(file: &Spanned<String>, files: &mut String, faults: &mut Vec<BuildError>) -> Option<Vec<X509>> {
    let all = X509::stack_from_pem(&read(file, files, faults)?).ok().filter(|all| !all.is_empty());
    if all.is_none() {
        let why = format!("{}: found no certificate, expected PEM", file.get_ref());
        faults.push(BuildError::new(why).at(file.span()));
    }
    all
}

fn private_key(file: &Spanned<String>, files: &mut String, faults: &mut Vec<BuildError>) -> Option<PKey<Private>> {
    let key = PKey::private_key_from_pem(&read(file, files, faults)?).ok();
    if key.is_none() {
        let why = format!("{}: found no private key, expected PEM without a passphrase", file.get_ref());
        faults.push(BuildError::new(why).at(file.span()));
    }
    key
}

fn pair(
    chain: Vec<X509>,
    key: PKey<Private>,
    at: &Spanned<String>,
    faults: &mut Vec<BuildError>,
) -> Option<Arc<CertKey>> {
    if chain[0].public_key().is_ok_and(|public| public.public_eq(&key)) {
        return Some(Arc::new(CertKey::new(chain, key)));
    }
    let why = format!("{}: this key does not belong to the certificate", at.get_ref());
    faults.push(BuildError::new(why).at(at.span()));
    None
}
