//! Certificates made for a test, and what a TLS client offers and sees.

use super::Dir;
use pingora::tls::ssl::{SslSession, SslVersion};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// An authority that signs what a test needs, in a directory.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: PathBuf,
}

/// A certificate and its key, as files.
#[derive(Clone)]
pub struct Signed {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub der: Vec<u8>,
}

impl Authority {
    pub fn new(dir: &Dir, name: &str) -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let cert = params.self_signed(&key).expect("a certificate");
        let pem = dir.write(&format!("{name}.pem"), cert.pem());
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for these names (or for a client: its common name is the first).
    pub fn sign(&self, dir: &Dir, names: &[&str]) -> Signed {
        self.sign_with(dir, names, |_| {})
    }

    pub fn sign_with(&self, dir: &Dir, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Signed {
        static NTH: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        let mut params = CertificateParams::new(names.clone()).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, names.first().map_or("", String::as_str));
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        let nth = NTH.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Signed {
            cert: dir.write(&format!("cert-{nth}.pem"), cert.pem()),
            key: dir.write(&format!("key-{nth}.pem"), key.serialize_pem()),
            der: cert.der().to_vec(),
        }
    }
}

/// One TLS connection: what the client offers, and what was agreed.
#[derive(Clone, Default)]
pub struct Tls {
    pub sni: String,
    pub offer: Vec<&'static str>,
    pub ca: Option<PathBuf>,
    pub cert: Option<(PathBuf, PathBuf)>,
    pub min: Option<SslVersion>,
    pub max: Option<SslVersion>,
    /// To be resumed.
    pub session: Option<SslSession>,

    pub alpn: Option<String>,
    pub version: String,
    pub resumed: bool,
    pub peer: Option<Vec<u8>>,
    /// What the server handed out for later.
    pub sessions: Arc<Mutex<Vec<SslSession>>>,
}

impl Tls {
    pub fn to(sni: &str) -> Tls {
        Tls { sni: sni.to_owned(), ..Tls::default() }
    }
    pub fn offering(mut self, protocols: &[&'static str]) -> Tls {
        self.offer = protocols.to_vec();
        self
    }
    pub fn trusting(mut self, authority: &Authority) -> Tls {
        self.ca = Some(authority.pem.clone());
        self
    }
    pub fn with(mut self, cert: &Signed) -> Tls {
        self.cert = Some((cert.cert.clone(), cert.key.clone()));
        self
    }
    pub fn only(mut self, version: SslVersion) -> Tls {
        (self.min, self.max) = (Some(version), Some(version));
        self
    }
}
