//! TLS: which certificate serves which name, and who may come with which client certificate. One acceptor serves all listeners,
//! so session tickets outlive a reload; every entry has a session context of its own, made of its names and its client policy.
//! That is what keeps a session made at one name from being resumed at another, past the certificate it demands.

use super::conf::{Client, Pem, Tls, Version};
use super::link::Socket;
use filters::cx;
use filters::filter::BuildError;
use pingora::protocols::tls::SslStream;
use pingora::tls::error::ErrorStack;
use pingora::tls::hash::{MessageDigest, hash};
use pingora::tls::nid::Nid;
use pingora::tls::pkey::{PKey, Private};
use pingora::tls::ssl::{
    AlpnError, NameType, SelectCertError, Ssl, SslContext, SslContextBuilder, SslMethod, SslRef, SslSessionCacheMode,
    SslVerifyMode, SslVersion,
};
use pingora::tls::x509::store::{X509Store, X509StoreBuilder};
use pingora::tls::x509::{X509, X509Ref};
use serde_spanned::Spanned;
use smol_str::SmolStr;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

/// Mozilla's intermediate list (TLS 1.2) without the finite-field key exchange that it dropped in 2023.
const CIPHERS: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:\
                       ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";
const CURVES: &str = "X25519MLKEM768:X25519:P-256:P-384";

/// The certificates of one listener. The first one serves clients that name nobody, or nobody known.
pub struct Certs {
    entries: Vec<Entry>,
    /// By lower-case name; wildcards by what follows the `*`.
    exact: HashMap<String, usize>,
    wild: HashMap<String, usize>,
}

/// One certificate with the policy under which it is served.
struct Entry {
    context: SslContext,
    min: SslVersion,
    verify: Option<(SslVerifyMode, X509Store)>,
    /// Of the client policy alone: two entries with the same one may stand in for each other.
    policy: [u8; 32],
    report: Certificate,
}

/// What is told about a certificate: to the log, the metrics, and the file watch.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub names: Vec<String>,
    /// Seconds since the Unix epoch.
    pub not_after: i64,
    /// The files that it was read from.
    pub files: Vec<PathBuf>,
}

/// Where the handshake's callback finds the certificates, and leaves its choice.
struct Choice {
    certs: Arc<Certs>,
    entry: usize,
}

static CHOICE: LazyLock<boring::ex_data::Index<Ssl, Choice>> =
    LazyLock::new(|| Ssl::new_ex_index().expect("the library hands out an index"));

/// Who was served, for [`Certs::stands_for`].
#[derive(Clone)]
pub struct Chosen {
    certs: Arc<Certs>,
    entry: usize,
    named: bool,
}

impl Chosen {
    /// May a request for this host come over a connection that was made for this entry (RFC 9110 section 7.4)? It may when the same
    /// entry would have served it. A client that named nobody may ask for any host that demands no more of it.
    pub fn covers(&self, host: &str) -> bool {
        let other = self.certs.lookup(host);
        other == self.entry || !self.named && self.certs.entries[other].policy == self.certs.entries[self.entry].policy
    }
}

/// Makes a listener's certificates. All faults are told, each with the place of its entry.
pub fn build(entries: &[Spanned<Tls>], base: &Path) -> Result<Certs, Vec<BuildError>> {
    let mut certs = Certs { entries: vec![], exact: HashMap::new(), wild: HashMap::new() };
    let mut faults = vec![];
    for conf in entries {
        match entry(conf.get_ref(), base) {
            Ok(entry) => certs.add(entry, &mut faults, conf.span()),
            Err(these) => faults.extend(these.into_iter().map(|f| f.at(conf.span()))),
        }
    }
    if faults.is_empty() { Ok(certs) } else { Err(faults) }
}

impl Certs {
    fn add(&mut self, entry: Entry, faults: &mut Vec<BuildError>, at: std::ops::Range<usize>) {
        let nth = self.entries.len();
        for name in &entry.report.names {
            let taken = match name.strip_prefix("*.") {
                Some(rest) => self.wild.insert(rest.to_owned(), nth),
                None => self.exact.insert(name.clone(), nth),
            };
            if taken.is_some_and(|other| other != nth) {
                let why = format!("two certificates for \"{name}\"");
                faults.push(BuildError::new(why).at(at.clone()).hint("choose with names = [\"…\"]"));
            }
        }
        self.entries.push(entry);
    }

    /// Which entry serves this name; a port behind it is ignored.
    fn lookup(&self, name: &str) -> usize {
        let name = name.split_once(':').map_or(name, |(name, _)| name);
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let wild = || name.split_once('.').and_then(|(_, rest)| self.wild.get(rest));
        self.exact.get(&name).or_else(wild).copied().unwrap_or(0)
    }

    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.entries.iter().map(|e| &e.report)
    }
}

/// Reads and proves one entry.
fn entry(conf: &Tls, base: &Path) -> Result<Entry, Vec<BuildError>> {
    let mut faults = vec![];
    let chain = conf.cert.read("cert", base).and_then(|pem| certificates("cert", &conf.cert, &pem));
    let key = conf.key.read("key", base).and_then(|pem| private_key(&conf.key, &pem));
    let ca = match &conf.client_ca {
        Some(ca) => ca.read("client_ca", base).and_then(|pem| certificates("client_ca", ca, &pem)).map(Some),
        None if conf.client.is_some() => {
            Err(BuildError::new("client certificates are asked for, but client_ca is missing"))
        }
        None => Ok(None),
    };
    let mut take = |fault: BuildError| faults.push(fault);
    let (chain, key, ca) = (chain.map_err(&mut take), key.map_err(&mut take), ca.map_err(&mut take));
    let (Ok(chain), Ok(key), Ok(ca)) = (chain, key, ca) else { return Err(faults) };

    let leaf = &chain[0];
    if !leaf.public_key().is_ok_and(|public| public.public_eq(&key)) {
        faults.push(BuildError::new(format!("key {} does not belong to cert {}", conf.key, conf.cert)));
    }
    if let Err(fault) = in_force(leaf, &conf.cert) {
        faults.push(fault);
    }
    let names = if conf.names.is_empty() { names_of(leaf) } else { lower(&conf.names, &mut faults) };
    if !faults.is_empty() {
        return Err(faults);
    }
    let files = [Some(&conf.cert), Some(&conf.key), conf.client_ca.as_ref()];
    let files = files.into_iter().flatten().filter_map(|pem| pem.path(base)).collect();
    let report = Certificate { names, not_after: unix(leaf).unwrap_or(i64::MAX), files };
    assemble(conf, &chain, &key, ca, report)
        .map_err(|e| vec![BuildError::new(format!("certificate {} cannot be used: {e}", conf.cert))])
}

fn assemble(
    conf: &Tls,
    chain: &[X509],
    key: &PKey<Private>,
    ca: Option<Vec<X509>>,
    report: Certificate,
) -> Result<Entry, ErrorStack> {
    let mut context = context()?;
    context.set_certificate(&chain[0])?;
    for link in &chain[1..] {
        context.add_extra_chain_cert(link.clone())?;
    }
    context.set_private_key(key)?;
    let ours = conf.alpn.clone();
    // nothing in common ends the handshake (RFC 7301 section 3.2)
    context.set_alpn_select_callback(move |_, theirs| {
        ours.iter().find_map(|one| offered(theirs, one.name())).ok_or(AlpnError::ALERT_FATAL)
    });

    let mode = match conf.client.unwrap_or(Client::Require) {
        Client::Require => SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
        Client::Optional => SslVerifyMode::PEER,
    };
    let mut policy = Vec::new();
    let verify = match ca {
        None => None,
        Some(all) => {
            policy.push(mode.bits() as u8);
            let mut store = X509StoreBuilder::new()?;
            for ca in all {
                policy.extend_from_slice(&ca.digest(MessageDigest::sha256())?);
                context.add_client_ca(&ca)?;
                store.add_cert(ca)?;
            }
            Some((mode, store.build()))
        }
    };
    let policy = sha256(&policy)?;
    let mut sorted = report.names.clone();
    sorted.sort();
    context.set_session_id_context(&sha256(&[&policy[..], sorted.join(" ").as_bytes()].concat())?)?;
    let min = match conf.min {
        Version::Tls12 => SslVersion::TLS1_2,
        Version::Tls13 => SslVersion::TLS1_3,
    };
    Ok(Entry { context: context.build(), min, verify, policy, report })
}

fn sha256(bytes: &[u8]) -> Result<[u8; 32], ErrorStack> {
    let digest = hash(MessageDigest::sha256(), bytes)?;
    let mut out = [0; 32];
    out.copy_from_slice(&digest);
    Ok(out)
}

/// The protocol of this name in the client's list: each with its length before it.
fn offered<'a>(mut list: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    while let Some((&len, rest)) = list.split_first() {
        let (one, next) = rest.split_at_checked(usize::from(len))?;
        if one == name {
            return Some(one);
        }
        list = next;
    }
    None
}

fn context() -> Result<SslContextBuilder, ErrorStack> {
    let mut context = SslContext::builder(SslMethod::tls())?;
    context.set_cipher_list(CIPHERS)?;
    context.set_curves_list(CURVES)?;
    context.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    // tickets only: a shared cache would cost a lock and memory per client
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    Ok(context)
}

/// Does the handshakes of all listeners.
pub struct Acceptor(SslContext);

impl Acceptor {
    pub fn new() -> Result<Acceptor, ErrorStack> {
        let mut context = context()?;
        context.set_session_id_context(b"portcullis")?;
        context.set_select_certificate_callback(|mut hello| {
            let name = hello.servername(NameType::HOST_NAME).map(str::to_owned);
            choose(hello.ssl_mut(), name.as_deref()).map_err(|_| SelectCertError::ERROR)
        });
        Ok(Acceptor(context.build()))
    }

    /// Shakes hands; the caller bounds the time.
    pub async fn accept(&self, certs: Arc<Certs>, socket: Socket) -> io::Result<(SslStream<Socket>, cx::Tls, Chosen)> {
        let mut ssl = Ssl::new(&self.0).map_err(io::Error::other)?;
        ssl.set_ex_data(*CHOICE, Choice { certs: certs.clone(), entry: 0 });
        let mut stream = SslStream::new(ssl, socket).map_err(io::Error::other)?;
        stream.accept().await.map_err(io::Error::other)?;
        let ssl = stream.ssl();
        let entry = ssl.ex_data(*CHOICE).map_or(0, |c| c.entry);
        let facts = facts(ssl, certs.entries[entry].verify.is_some());
        let chosen = Chosen { certs, entry, named: facts.sni.is_some() };
        Ok((stream, facts, chosen))
    }
}

/// Runs after the hello was read and before anything is decided, resumption included.
fn choose(ssl: &mut SslRef, name: Option<&str>) -> Result<(), ErrorStack> {
    let Some(choice) = ssl.ex_data_mut(*CHOICE) else { return Err(ErrorStack::get()) };
    choice.entry = name.map_or(0, |name| choice.certs.lookup(name));
    let (certs, nth) = (choice.certs.clone(), choice.entry);
    let entry = &certs.entries[nth];
    ssl.set_ssl_context(&entry.context)?;
    ssl.set_min_proto_version(Some(entry.min))?;
    if let Some((mode, store)) = &entry.verify {
        ssl.set_verify(*mode);
        ssl.set_verify_cert_store(store.clone())?;
    }
    Ok(())
}

fn facts(ssl: &SslRef, verified: bool) -> cx::Tls {
    cx::Tls {
        sni: ssl.servername(NameType::HOST_NAME).map(SmolStr::new),
        version: ssl.version_str(),
        cipher: ssl.current_cipher().map_or("", |c| c.name()),
        cert: verified.then(|| ssl.peer_certificate()).flatten().map(|cert| client(&cert)),
    }
}

fn client(cert: &X509Ref) -> cx::Cert {
    let mut san = vec![];
    for name in cert.subject_alt_names().iter().flatten() {
        let text = [name.dnsname(), name.email(), name.uri()].into_iter().flatten().next();
        let address = || name.ipaddress().and_then(ip).map(|ip| SmolStr::new(ip.to_string()));
        san.extend(text.map(SmolStr::new).or_else(address));
    }
    let digest = cert.digest(MessageDigest::sha256()).map(|d| d.to_vec()).unwrap_or_default();
    let fingerprint = digest.iter().map(|b| format!("{b:02x}")).collect::<String>();
    cx::Cert { cn: common_name(cert).unwrap_or_default(), san, fingerprint: fingerprint.into() }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn common_name(cert: &X509Ref) -> Option<SmolStr> {
    let entry = cert.subject_name().entries_by_nid(Nid::COMMONNAME).next()?;
    entry.data().as_utf8().ok().map(|name| SmolStr::new(&*name))
}

/// The names a certificate is for; the common name counts only when there are no others (RFC 6125 section 6.4.4).
fn names_of(cert: &X509Ref) -> Vec<String> {
    let mut names: Vec<String> = vec![];
    for name in cert.subject_alt_names().iter().flatten() {
        names.extend(name.dnsname().map(str::to_ascii_lowercase));
    }
    if names.is_empty() {
        names.extend(common_name(cert).map(|n| n.to_ascii_lowercase()));
    }
    names.sort();
    names.dedup();
    names
}

fn lower(names: &[String], faults: &mut Vec<BuildError>) -> Vec<String> {
    for name in names {
        let rest = name.strip_prefix("*.").unwrap_or(name);
        if rest.contains('*') || !super::check::host(rest.as_bytes()) || rest.contains(':') {
            faults.push(BuildError::new(format!("\"{name}\": expected a host name, or \"*.\" and a host name")));
        }
    }
    names.iter().map(|n| n.to_ascii_lowercase()).collect()
}

/// All certificates of a file, at least one.
fn certificates(key: &str, from: &Pem, pem: &[u8]) -> Result<Vec<X509>, BuildError> {
    let not = |why: &str| BuildError::new(format!("{key} {from}: {why}"));
    match X509::stack_from_pem(pem) {
        Ok(all) if !all.is_empty() => Ok(all),
        _ if pem.windows(11).any(|w| w == b"PRIVATE KEY") => Err(not("a private key where a certificate is expected")),
        _ => Err(not("expected certificates in PEM form")),
    }
}

fn private_key(from: &Pem, pem: &[u8]) -> Result<PKey<Private>, BuildError> {
    if pem.windows(9).any(|w| w == b"ENCRYPTED") {
        return Err(BuildError::new(format!("key {from}: encrypted, and nobody is there to type the pass phrase")));
    }
    PKey::private_key_from_pem(pem)
        .map_err(|_| BuildError::new(format!("key {from}: expected a private key in PEM form")))
}

/// Refuses what no client would accept. What expires while it is served goes on being served: that is the watch's to tell.
fn in_force(cert: &X509Ref, from: &Pem) -> Result<(), BuildError> {
    let now = (crate::clock::wall() / 1000) as i64;
    if unix(cert).is_some_and(|end| end < now) {
        return Err(BuildError::new(format!("cert {from} expired at {}", cert.not_after())).hint("renew it"));
    }
    if since_epoch(cert.not_before()).is_some_and(|start| start > now) {
        let why = format!("cert {from} is not valid before {}", cert.not_before());
        return Err(BuildError::new(why).hint("is the clock right?"));
    }
    Ok(())
}

fn unix(cert: &X509Ref) -> Option<i64> {
    since_epoch(cert.not_after())
}

fn since_epoch(time: &boring::asn1::Asn1TimeRef) -> Option<i64> {
    let epoch = boring::asn1::Asn1Time::from_unix(0).ok()?;
    let diff = epoch.diff(time).ok()?;
    Some(i64::from(diff.days) * 86_400 + i64::from(diff.secs))
}
