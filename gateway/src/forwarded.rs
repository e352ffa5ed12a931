//! Who the client is behind trusted proxies, and what the upstream is told about it.
//!
//! Nobody's forwarded headers count unless the peer is in `server.trusted`; then `X-Forwarded-For` is walked from the
//! right, past trusted addresses, to the first that is not. What goes upstream is always written anew.

use filters::cx::Cx;
use filters::head::{RequestHead, header};
use filters::units::Cidr;
use std::fmt::Write;
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

/// Writes the forwarding headers of an upstream request: `peer` is the socket's address, the rest is in `cx`.
/// From a trusted peer the chain is continued, from any other it begins here.
pub fn write(head: &mut RequestHead, cx: &Cx, peer: IpAddr, trusted: bool, traceparent: &str) -> pingora::Result<()> {
    let proto = if cx.secure { "https" } else { "http" };
    let mut hops = String::with_capacity(48);
    let mut forwarded = String::with_capacity(96);
    if trusted {
        chain(head, "x-forwarded-for", &mut hops);
        chain(head, "forwarded", &mut forwarded);
    }
    let host = if trusted { header(&head.headers, "x-forwarded-host").map(str::to_owned) } else { None };
    let keeps_trace = trusted && header(&head.headers, "traceparent") == Some(traceparent);
    for name in OURS {
        if !(keeps_trace && name.starts_with("trace")) {
            head.remove_header(name);
        }
    }
    let _ = write!(hops, "{peer}");
    let _ = match peer {
        IpAddr::V4(ip) => write!(forwarded, "for={ip};proto={proto}"),
        IpAddr::V6(ip) => write!(forwarded, "for=\"[{ip}]\";proto={proto}"),
    };
    // RFC 7239, section 4: a host with a port or brackets must be quoted.
    if !cx.host.is_empty() {
        let _ = write!(forwarded, ";host=\"{}\"", cx.host);
    }
    head.insert_header("X-Forwarded-For", hops)?;
    head.insert_header("X-Forwarded-Proto", proto)?;
    head.insert_header("X-Forwarded-Host", host.as_deref().unwrap_or(&cx.host))?;
    head.insert_header("Forwarded", forwarded)?;
    head.insert_header("X-Request-Id", cx.id.as_str())?;
    if !keeps_trace {
        head.insert_header("traceparent", traceparent)?;
    }
    Ok(())
}

/// What earlier proxies wrote, as one line that another entry can follow.
fn chain(head: &RequestHead, name: &str, into: &mut String) {
    for line in head.headers.get_all(name).iter().filter_map(|v| v.to_str().ok()) {
        let _ = write!(into, "{line}, ");
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
        let parent = crate::id::traceparent("abc");
        let spoofed = [("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6"), ("x-real-ip", "6.6.6.6")];
        let mut stranger = head(&spoofed);
        write(&mut stranger, &cx, ip("9.9.9.9"), false, &parent).expect("written");
        assert_eq!(header(&stranger.headers, "x-forwarded-for"), Some("9.9.9.9"));
        assert_eq!(header(&stranger.headers, "forwarded"), Some("for=9.9.9.9;proto=http;host=\"example.com\""));
        assert_eq!(header(&stranger.headers, "x-real-ip"), None);
        assert_eq!(header(&stranger.headers, "traceparent"), Some(parent.as_str()));
        let mut friend = head(&spoofed);
        write(&mut friend, &cx, ip("10.0.0.1"), true, &parent).expect("written");
        assert_eq!(header(&friend.headers, "x-forwarded-for"), Some("6.6.6.6, 10.0.0.1"));
        assert_eq!(
            header(&friend.headers, "forwarded"),
            Some("for=6.6.6.6, for=10.0.0.1;proto=http;host=\"example.com\"")
        );
    }
}
