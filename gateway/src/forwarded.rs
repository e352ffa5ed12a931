//! Who the client is behind trusted proxies, and what the upstream is told about it.
//!
//! Nobody's forwarded headers count unless the peer is in `server.trusted`; then `X-Forwarded-For` is walked from the
//! right, past trusted addresses, to the first that is not. What goes upstream is always written anew.

use crate::id::Trace;
use filters::cx::Cx;
use filters::head::{RequestHead, header};
use filters::units::Cidr;
use http::HeaderValue;
use http::header::HOST;
use smallvec::SmallVec;
use std::net::IpAddr;

/// How many hops of `X-Forwarded-For` are looked at: a longer list says nothing an operator set up.
const MAX_HOPS: usize = 32;

/// What trusted proxies say about the client.
#[derive(Debug, PartialEq, Eq)]
pub struct Client {
    pub ip: IpAddr,
    /// The scheme the client used, if a trusted proxy said so.
    pub secure: Option<bool>,
    /// The peer is trusted: its ids and traces are taken over, its forwarded headers kept.
    pub trusted: bool,
}

/// The client of a request that came from `peer`.
pub fn client(peer: IpAddr, trusted: &[Cidr], head: &RequestHead) -> Client {
    let is_trusted = |ip: IpAddr| trusted.iter().any(|net| net.contains(ip));
    if trusted.is_empty() || !is_trusted(peer) {
        return Client { ip: peer, secure: None, trusted: false };
    }
    let mut ip = peer;
    let lines = head.headers.get_all("x-forwarded-for");
    let hops = lines.iter().rev().filter_map(|v| v.to_str().ok()).flat_map(|line| line.rsplit(','));
    for hop in hops.take(MAX_HOPS) {
        // An entry that is no address ends what can be believed.
        let Some(address) = address(hop.trim()) else { break };
        ip = address;
        if !is_trusted(address) {
            break;
        }
    }
    let secure = header(&head.headers, "x-forwarded-proto").and_then(|proto| {
        let last = proto.rsplit(',').next().unwrap_or_default().trim();
        if last.eq_ignore_ascii_case("https") { Some(true) } else { last.eq_ignore_ascii_case("http").then_some(false) }
    });
    Client { ip, secure, trusted: true }
}

/// `1.2.3.4`, `1.2.3.4:567`, `::1`, `[::1]`, `[::1]:567`.
fn address(text: &str) -> Option<IpAddr> {
    let ip = match text.strip_prefix('[') {
        Some(rest) => {
            let (ip, port) = rest.split_once(']')?;
            let port_fits = port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok());
            port_fits.then(|| ip.parse().ok()).flatten()?
        }
        None => text
            .parse::<IpAddr>()
            .ok()
            .or_else(|| Some(text.parse::<std::net::SocketAddrV4>().ok()?.ip().to_owned().into()))?,
    };
    Some(ip.to_canonical())
}

/// The headers that only this gateway may write. Copies that a client sent are removed unless the peer is trusted.
const OURS: [&str; 9] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-real-ip",
    "forwarded",
    "x-request-id",
    "traceparent",
    "tracestate",
];

/// Writes the forwarding headers of an upstream request: `asked` is the client's host, `peer` the socket's address, the
/// rest is in `cx`.
/// From a trusted peer the chain is continued, from any other it begins here. On the path of every request: the
/// values are put together in one buffer, and only what is there is removed.
pub fn write(
    head: &mut RequestHead,
    cx: &Cx,
    asked: Option<&HeaderValue>,
    peer: IpAddr,
    trusted: bool,
    trace: &Trace,
) -> pingora::Result<()> {
    let mut text: SmallVec<[u8; 256]> = SmallVec::new();
    if trusted {
        chain(head, "x-forwarded-for", &mut text);
    }
    address_text(&mut text, peer);
    let hops = HeaderValue::from_bytes(&text);
    text.clear();
    if trusted {
        chain(head, "forwarded", &mut text);
    }
    forwarded(&mut text, cx, peer);
    let forwarded = HeaderValue::from_bytes(&text);
    let or_empty = |value: Result<HeaderValue, _>| value.unwrap_or_else(|_| HeaderValue::from_static(""));
    let asked = match trusted.then(|| head.headers.get("x-forwarded-host")).flatten() {
        Some(host) => host.clone(),
        None => asked.cloned().unwrap_or_else(|| or_empty(HeaderValue::from_str(&cx.host))),
    };
    let adopted = matches!(trace, Trace::Adopted(_));
    let present = head.headers.keys().filter_map(|name| OURS.into_iter().find(|ours| *ours == name.as_str()));
    let present: SmallVec<[&str; 9]> = present.filter(|name| !(adopted && name.starts_with("trace"))).collect();
    for name in present {
        head.remove_header(name);
    }
    let proto = if cx.secure { "https" } else { "http" };
    head.insert_header("X-Forwarded-For", or_empty(hops))?;
    head.insert_header("X-Forwarded-Proto", HeaderValue::from_static(proto))?;
    head.insert_header("X-Forwarded-Host", asked)?;
    head.insert_header("Forwarded", or_empty(forwarded))?;
    head.insert_header("X-Request-Id", or_empty(HeaderValue::from_str(&cx.id)))?;
    if let Trace::Ours(parent) = trace {
        head.insert_header("traceparent", or_empty(HeaderValue::from_bytes(parent)))?;
    }
    Ok(())
}

/// The host as the client wrote it, with its port: to be looked at before anything changes it.
pub fn asked(head: &RequestHead) -> Option<HeaderValue> {
    let authority = || HeaderValue::from_str(head.uri.authority()?.as_str()).ok();
    head.headers.get(HOST).cloned().or_else(authority)
}

/// One element of `Forwarded` (RFC 7239, section 4: what is no token must be quoted).
fn forwarded(text: &mut SmallVec<[u8; 256]>, cx: &Cx, peer: IpAddr) {
    let quoted = peer.to_canonical().is_ipv6();
    text.extend_from_slice(if quoted { b"for=\"[" } else { b"for=" });
    address_text(text, peer);
    text.extend_from_slice(if quoted { b"]\"" } else { b"" });
    text.extend_from_slice(if cx.secure { b";proto=https" } else { b";proto=http" });
    if !cx.host.is_empty() {
        text.extend_from_slice(b";host=\"");
        text.extend_from_slice(cx.host.as_bytes());
        text.push(b'"');
    }
}

fn address_text(text: &mut SmallVec<[u8; 256]>, ip: IpAddr) {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            for (n, octet) in v4.octets().into_iter().enumerate() {
                if n > 0 {
                    text.push(b'.');
                }
                decimal(text, octet);
            }
        }
        IpAddr::V6(v6) => text.extend_from_slice(v6.to_string().as_bytes()),
    }
}

fn decimal(text: &mut SmallVec<[u8; 256]>, n: u8) {
    if n >= 100 {
        text.push(b'0' + n / 100);
    }
    if n >= 10 {
        text.push(b'0' + n / 10 % 10);
    }
    text.push(b'0' + n % 10);
}

/// What earlier proxies wrote, as one line that another entry can follow.
fn chain(head: &RequestHead, name: &str, into: &mut SmallVec<[u8; 256]>) {
    for line in head.headers.get_all(name) {
        into.extend_from_slice(line.as_bytes());
        into.extend_from_slice(b", ");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &[(&'static str, &str)]) -> RequestHead {
        let mut head = RequestHead::build("GET", b"/", None).expect("a request");
        for (name, value) in lines {
            head.append_header(*name, *value).expect("a header");
        }
        head
    }
    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }
    fn nets() -> Vec<Cidr> {
        ["10.0.0.0/8", "fd00::/8"].iter().map(|n| n.parse().expect("a block")).collect()
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        let told = head(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-proto", "https")]);
        let client = client(ip("9.9.9.9"), &nets(), &told);
        assert_eq!(client, Client { ip: ip("9.9.9.9"), secure: None, trusted: false });
    }

    #[test]
    fn behind_trusted_proxies_the_last_untrusted_hop_is_the_client() {
        for (line, expected) in [
            ("1.1.1.1, 2.2.2.2, 10.0.0.7", "2.2.2.2"),
            ("1.1.1.1, [2001:db8::1]:443, 10.0.0.7", "2001:db8::1"),
            ("2.2.2.2:5678", "2.2.2.2"),
            ("10.0.0.9, 10.0.0.8", "10.0.0.9"),
            ("1.1.1.1, garbage, 10.0.0.7", "10.0.0.7"),
            ("", "10.0.0.1"),
            ("::ffff:3.3.3.3", "3.3.3.3"),
        ] {
            let got = client(ip("10.0.0.1"), &nets(), &head(&[("x-forwarded-for", line)]));
            assert_eq!(got.ip, ip(expected), "{line}");
        }
    }

    #[test]
    fn several_lines_are_one_list() {
        let told = head(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2, 10.1.1.1")]);
        assert_eq!(client(ip("10.0.0.1"), &nets(), &told).ip, ip("2.2.2.2"));
    }

    #[test]
    fn the_chain_begins_here_for_strangers_and_goes_on_for_friends() {
        let mut cx = Cx::new(0, 0, ip("1.1.1.1"));
        cx.host = "example.com".into();
        cx.id = "abc".into();
        let parent = Trace::new("abc");
        let spoofed = [("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6"), ("x-real-ip", "6.6.6.6")];
        let mut stranger = head(&spoofed);
        write(&mut stranger, &cx, None, ip("9.9.9.9"), false, &parent).expect("written");
        assert_eq!(header(&stranger.headers, "x-forwarded-for"), Some("9.9.9.9"));
        assert_eq!(header(&stranger.headers, "forwarded"), Some("for=9.9.9.9;proto=http;host=\"example.com\""));
        assert_eq!(header(&stranger.headers, "x-real-ip"), None);
        assert!(header(&stranger.headers, "traceparent").is_some_and(|sent| sent.contains(parent.id())));
        let mut friend = head(&spoofed);
        write(&mut friend, &cx, None, ip("10.0.0.1"), true, &parent).expect("written");
        assert_eq!(header(&friend.headers, "x-forwarded-for"), Some("6.6.6.6, 10.0.0.1"));
        assert_eq!(
            header(&friend.headers, "forwarded"),
            Some("for=6.6.6.6, for=10.0.0.1;proto=http;host=\"example.com\"")
        );
    }
}
