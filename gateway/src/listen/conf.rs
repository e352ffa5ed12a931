//! `[listen.NAME]`: where clients arrive, and how long they may take.

use filters::filter::BuildError;
use filters::short::{Bad, Many, Short, words};
use filters::units::Span;
use serde::Deserialize;
use std::fmt;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// One listener: an address or several, served alike.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Listen")]
pub struct Conf {
    /// Where to listen: `"0.0.0.0:8080"`, `"[::]:8080"` (IPv6 only), `"unix:/run/portcullis.sock"`, or a list of these.
    /// Port 0 takes any free port.
    pub addr: Many<Addr>,
    /// Certificates: one table, or a list of which the client's SNI chooses one. The first serves clients that name nobody.
    #[serde(default)]
    pub tls: Many<Tls>,
    /// Connections begin with a PROXY header (version 1 or 2), as a TCP load balancer sends it. It is read from, and demanded of,
    /// the peers in `[server] trusted`; from anybody else it is a malformed request.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// Unencrypted HTTP/2 with prior knowledge, and nothing else, on this listener.
    #[serde(default)]
    pub h2c: bool,
    /// Answer every request with 308 to the same address under `https`, such as `"https"` or `"https:8443"`.
    pub redirect: Option<Redirect>,
    /// Close a connection on which nothing was asked for so long. Default 60s.
    #[serde(default = "idle")]
    pub idle: Span,
    /// From its first byte to its last, a request's head may take so long; on a new connection, from accepting it. Default 10s.
    #[serde(default = "ten_seconds")]
    pub head_timeout: Span,
    /// The TLS handshake, and the PROXY header before it, may take so long each. Default 10s.
    #[serde(default = "ten_seconds")]
    pub handshake_timeout: Span,
    /// More connections than this are closed at once. Default: only `[server] max_connections` counts.
    pub max_connections: Option<usize>,
    /// Accept `_` in field names, which are refused by default: many upstreams take `x_real_ip` for `x-real-ip`. Default false.
    #[serde(default)]
    pub underscores: bool,
}

fn idle() -> Span {
    Span::secs(60)
}

fn ten_seconds() -> Span {
    Span::secs(10)
}

/// An address to listen on; the long form is for Unix sockets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ListenAddr")]
pub struct Addr {
    /// The address, as in the one-line form.
    pub at: Bind,
    /// Permissions of a Unix socket, in octal: `"0660"`. Default: what the umask leaves.
    pub mode: Option<FileMode>,
}

impl Short for Addr {
    const LINE: &'static str = Bind::FORM;
    fn line(text: &str) -> Result<Addr, Bad> {
        Ok(Addr { at: text.parse()?, mode: None })
    }
}

/// An IP address with its port, or the path of a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String")]
#[schemars(rename = "ListenBind", with = "String")]
pub enum Bind {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Bind {
    const FORM: &'static str = "an address such as \"0.0.0.0:8080\", \"[::]:8080\" or \"unix:/path\"";
}

impl FromStr for Bind {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Bind, Bad> {
        let bad = |why: &str| Bad::new(0..text.len(), format!("\"{text}\": {why}"));
        match text.strip_prefix("unix:") {
            Some(path) if !path.starts_with('/') => Err(bad("expected an absolute path after \"unix:\"")),
            // sun_path of unix(7), with its end
            Some(path) if path.len() > 107 => Err(bad("longer than the 107 bytes that a Unix socket's path may have")),
            Some(path) => Ok(Bind::Unix(path.into())),
            None => text.parse().map(Bind::Tcp).map_err(|_| bad(&format!("expected {}", Bind::FORM))),
        }
    }
}

impl TryFrom<String> for Bind {
    type Error = Bad;
    fn try_from(text: String) -> Result<Bind, Bad> {
        text.parse()
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Tcp(addr) => addr.fmt(f),
            Bind::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// File permissions in octal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String")]
#[schemars(rename = "FileMode", with = "String")]
pub struct FileMode(pub u32);

impl TryFrom<String> for FileMode {
    type Error = Bad;
    fn try_from(text: String) -> Result<FileMode, Bad> {
        let octal = text.len() <= 4 && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let mode = octal.then(|| u32::from_str_radix(&text, 8).ok()).flatten().filter(|m| *m <= 0o777);
        mode.map(FileMode)
            .ok_or_else(|| Bad::new(0..text.len(), format!("\"{text}\": expected permissions such as \"0660\"")))
    }
}

/// One certificate, and the terms on which it is served.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ListenTls")]
pub struct Tls {
    /// The certificate and its intermediates, leaf first: a PEM file, or PEM text from a reference. Expired ones are refused.
    pub cert: Pem,
    /// Its private key: a PEM file, or PEM text from a reference.
    pub key: Pem,
    /// The oldest version spoken, `"1.2"` or `"1.3"`. Default 1.2.
    #[serde(default)]
    pub min: Version,
    /// The protocols offered, best first. Default `["h2", "http/1.1"]`.
    #[serde(default = "all_protocols")]
    pub alpn: Vec<Alpn>,
    /// The authorities whose client certificates are believed: a PEM file.
    pub client_ca: Option<Pem>,
    /// Must a client show a certificate? `"require"` or `"optional"`. Default `require` where `client_ca` is set.
    pub client: Option<Client>,
    /// The host names it serves, such as `"*.example.com"`. Default: those in the certificate.
    #[serde(default)]
    pub names: Vec<String>,
}

fn all_protocols() -> Vec<Alpn> {
    vec![Alpn::H2, Alpn::Http1]
}

impl Short for Tls {
    const LINE: &'static str = "\"CERT KEY\" (two PEM files)";
    fn line(text: &str) -> Result<Tls, Bad> {
        let files: Vec<_> = words(text).map(|(_, word)| Pem(word.to_owned())).collect();
        let [cert, key] = <[Pem; 2]>::try_from(files)
            .map_err(|_| Bad::new(0..text.len(), format!("\"{text}\": expected {}", Tls::LINE)))?;
        let (min, alpn) = (Version::default(), all_protocols());
        Ok(Tls { cert, key, min, alpn, client_ca: None, client: None, names: vec![] })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "TlsVersion")]
pub enum Version {
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "Alpn")]
pub enum Alpn {
    #[serde(rename = "h2")]
    H2,
    #[serde(rename = "http/1.1")]
    Http1,
}

impl Alpn {
    /// As it is registered.
    pub fn name(self) -> &'static [u8] {
        match self {
            Alpn::H2 => b"h2",
            Alpn::Http1 => b"http/1.1",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "ClientCertificate")]
pub enum Client {
    Require,
    Optional,
}

/// The port under which `https` is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String")]
#[schemars(rename = "HttpsRedirect", with = "String")]
pub struct Redirect(pub u16);

impl TryFrom<String> for Redirect {
    type Error = Bad;
    fn try_from(text: String) -> Result<Redirect, Bad> {
        let port = match text.strip_prefix("https") {
            Some("") => Some(443),
            Some(rest) => rest.strip_prefix(':').and_then(|p| p.parse().ok()).filter(|p| *p != 0),
            None => None,
        };
        port.map(Redirect).ok_or_else(|| {
            Bad::new(
                0..text.len(),
                format!("\"{text}\": expected \"https\", or \"https:\" and a port such as \"https:8443\""),
            )
        })
    }
}

/// The path of a PEM file, or the PEM text itself, which references such as `"${cred:tls-key}"` give.
#[derive(Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "Pem")]
pub struct Pem(pub String);

/// More than any chain of certificates.
const LARGEST: u64 = 1 << 20;

impl Pem {
    fn inline(&self) -> bool {
        self.0.trim_start().starts_with("-----BEGIN")
    }

    /// The file that it is in; relative paths are seen from the configuration file's directory.
    pub fn path(&self, base: &Path) -> Option<PathBuf> {
        (!self.inline()).then(|| base.join(&self.0))
    }

    pub fn read(&self, key: &str, base: &Path) -> Result<Vec<u8>, BuildError> {
        let Some(path) = self.path(base) else { return Ok(self.0.clone().into_bytes()) };
        let read = || {
            let mut bytes = vec![];
            std::fs::File::open(&path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) if bytes.len() as u64 > LARGEST => {
                Err(BuildError::new(format!("{key} {self}: more than 1 MiB, which is no certificate")))
            }
            Ok(bytes) => Ok(bytes),
            Err(e) => Err(BuildError::new(format!("{key} {self}: {}", why(&e)))),
        }
    }
}

/// In the words of an operator.
fn why(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::NotFound => "no such file".into(),
        std::io::ErrorKind::PermissionDenied => "not readable by this user".into(),
        std::io::ErrorKind::IsADirectory => "a directory, not a file".into(),
        _ => e.to_string(),
    }
}

/// Never the text of a key.
impl fmt::Display for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.inline() { f.write_str("(PEM text)") } else { write!(f, "\"{}\"", self.0) }
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> Result<Conf, String> {
        toml::from_str(text).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn the_usual_forms() {
        let c = conf(r#"addr = "0.0.0.0:8080""#).unwrap();
        assert_eq!(c.addr[0].get_ref().at.to_string(), "0.0.0.0:8080");
        assert_eq!((c.idle, c.head_timeout), (Span::secs(60), Span::secs(10)));
        let c = conf(
            r#"
            addr = ["[::]:1", { at = "unix:/run/x.sock", mode = "0660" }]
            tls = [{ cert = "a", key = "b", client_ca = "c", min = "1.3" }, "c.pem k.pem"]
            redirect = "https:8443""#,
        )
        .unwrap();
        assert_eq!(c.addr[1].get_ref().mode, Some(FileMode(0o660)));
        assert_eq!(c.tls[0].get_ref().min, Version::Tls13);
        assert_eq!(c.tls[1].get_ref().alpn, [Alpn::H2, Alpn::Http1]);
        assert_eq!(c.redirect, Some(Redirect(8443)));
    }

    #[test]
    fn wrong_forms_say_what_is_expected() {
        for (text, expected) in [
            (r#"addr = "localhost:80""#, "expected an address such as"),
            (r#"addr = ":80""#, "expected an address such as"),
            (r#"addr = "unix:x""#, "absolute path"),
            (r#"addr = { at = "unix:/x", mode = "rw" }"#, "permissions such as"),
            ("addr = \"0.0.0.0:80\"\nredirect = \"http\"", "expected \"https\""),
            ("addr = \"0.0.0.0:80\"\ntls = \"one\"", "two PEM files"),
            ("addr = \"0.0.0.0:80\"\nidel = \"5s\"", "unknown field"),
        ] {
            let found = conf(text).unwrap_err();
            assert!(found.contains(expected), "{text}: {found}");
        }
    }

    #[test]
    fn keys_are_not_shown() {
        let pem = Pem("-----BEGIN PRIVATE KEY-----\nabc".into());
        assert!(!format!("{pem:?} {pem}").contains("abc"));
    }
}
