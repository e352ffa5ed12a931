//! What requests are told apart by: `ip`, `header.x-api-key`, `ip+route`.
//!
//! Its surprise: a request that lacks a part is told apart by its address in that part, never lumped together with or
//! let through before the others. An IPv6 client is its /64, since that is what one customer gets: counted by full
//! addresses, one laptop would be 2^64 clients.

use super::View;
use super::var::Var;
use crate::short::Bad;
use crate::units::{Unit, unit};
use std::borrow::Cow;
use std::fmt;
use std::fmt::Write;
use std::net::IpAddr;

/// One or more facts joined with `+`.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    parts: Vec<Var>,
}

impl Unit for Key {
    const FORM: &'static str = "a key such as \"ip\" or \"header.x-api-key+route\"";
    const PATTERN: &'static str = r"^[A-Za-z0-9._-]+(\+[A-Za-z0-9._-]+)*$";
    fn parse(text: &str) -> Result<Key, Bad> {
        Key::parse(text)
    }
}
unit!(Key, "Key");
#[cfg(feature = "schema")]
crate::units::written!(Key);

fn is_key(var: &Var) -> bool {
    use Var::*;
    matches!(var, Ip | Header(_) | Cookie(_) | Capture(_) | Query(_) | CertCn | Route | Claim(_) | Label(_))
}

impl Key {
    pub fn parse(text: &str) -> Result<Key, Bad> {
        let mut parts = vec![];
        for part in text.split('+') {
            let from = part.as_ptr() as usize - text.as_ptr() as usize;
            let name = part.trim();
            let whole = from..from + part.len();
            let var = match Var::parse(name) {
                Ok(var) => var,
                Err(_) if name.is_empty() => return Err(Bad::new(whole, "an empty key, expected such as `ip`")),
                Err(bad) => return Err(bad.shifted(from + part.find(name).unwrap_or(0))),
            };
            if !is_key(&var) {
                return Err(Bad::new(
                    whole,
                    format!(
                        "`{var}` tells no clients apart, expected ip, jwt.CLAIM, key.id, header.NAME, cookie.NAME, path.NAME, \
                         query.NAME, cert.cn or route"
                    ),
                ));
            }
            if parts.contains(&var) {
                return Err(Bad::new(whole, format!("`{var}` stands twice")));
            }
            parts.push(var);
        }
        Ok(Key { parts })
    }

    pub fn ip() -> Key {
        Key { parts: vec![Var::Ip] }
    }

    /// The facts, in the order written.
    pub fn parts(&self) -> &[Var] {
        &self.parts
    }

    /// SipHash-1-3 keyed by `seed`. With a secret seed nobody can choose values that fall together, which is what
    /// counters need; with a constant one every node and version gets the same number, which is what `hash` and
    /// `sticky` need. `ahash` promises neither: its result differs between processors.
    pub fn hash(&self, view: &View, seed: u64) -> u64 {
        self.parts.iter().fold(0, |hash, var| part(var, view).hash(seed, hash))
    }

    /// Two such hashes from one look at the request: 128 bits, so that no two keys are ever taken for one another.
    pub fn hash128(&self, view: &View, seeds: [u64; 2]) -> [u64; 2] {
        self.parts.iter().fold([0; 2], |hashes, var| {
            let part = part(var, view);
            [part.hash(seeds[0], hashes[0]), part.hash(seeds[1], hashes[1])]
        })
    }

    /// As a person reads it: `10.0.0.1+users`.
    pub fn text(&self, view: &View) -> String {
        let mut all = String::new();
        for (i, var) in self.parts.iter().enumerate() {
            let plus = if i > 0 { "+" } else { "" };
            match part(var, view) {
                Part::Text(text) => write!(all, "{plus}{text}"),
                Part::V4(bits) => write!(all, "{plus}{}", std::net::Ipv4Addr::from_bits(bits)),
                Part::V6(bits) => write!(all, "{plus}{}/64", std::net::Ipv6Addr::from_bits(u128::from(bits) << 64)),
            }
            .expect("a String takes everything");
        }
        all
    }
}

/// A text and an address are never the same part, or a header could be written to look like somebody's address.
enum Part<'a> {
    Text(Cow<'a, str>),
    V4(u32),
    /// The /64.
    V6(u64),
}

impl Part<'_> {
    /// `before` is the hash of the parts before this one.
    fn hash(&self, seed: u64, before: u64) -> u64 {
        match self {
            Part::Text(text) => sip13(seed, before ^ 1, text.as_bytes()),
            Part::V4(bits) => sip13(seed, before ^ 2, &bits.to_be_bytes()),
            Part::V6(bits) => sip13(seed, before ^ 3, &bits.to_be_bytes()),
        }
    }
}

fn part<'a>(var: &Var, view: &View<'a>) -> Part<'a> {
    if *var != Var::Ip
        && let Some(text) = var.sent(view).filter(|t| !t.is_empty())
    {
        return Part::Text(text);
    }
    match view.cx.ip.to_canonical() {
        IpAddr::V4(ip) => Part::V4(ip.to_bits()),
        IpAddr::V6(ip) => Part::V6((ip.to_bits() >> 64) as u64),
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, var) in self.parts.iter().enumerate() {
            write!(f, "{}{var}", if i > 0 { "+" } else { "" })?;
        }
        Ok(())
    }
}

fn sip13(k0: u64, k1: u64, bytes: &[u8]) -> u64 {
    sip::<1, 3>(k0, k1, bytes)
}

/// SipHash-C-D (Aumasson and Bernstein, 2012).
fn sip<const C: usize, const D: usize>(k0: u64, k1: u64, bytes: &[u8]) -> u64 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let mut mix = |m: u64| {
        v[3] ^= m;
        rounds::<C>(&mut v);
        v[0] ^= m;
    };
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().for_each(|w| mix(u64::from_le_bytes(*w)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(u64::from_le_bytes(last) | (bytes.len() as u64) << 56);
    v[2] ^= 0xff;
    rounds::<D>(&mut v);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn rounds<const N: usize>(v: &mut [u64; 4]) {
    for _ in 0..N {
        v[0] = v[0].wrapping_add(v[1]);
        v[2] = v[2].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[1]);
        v[0] = v[0].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cx::Cx;
    use crate::head::RequestHead;
    use std::hash::Hasher;

    fn hash(key: &str, ip: &str, headers: &[(&'static str, &'static str)]) -> (u64, String) {
        let mut head = RequestHead::build("GET", b"/", None).unwrap();
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        let mut cx = Cx::new(0, 0, ip.parse().unwrap());
        cx.route = "users".into();
        let (key, view) = (key.parse::<Key>().unwrap(), View { head: &head, cx: &cx });
        assert_eq!(key.hash128(&view, [7, 8]), [key.hash(&view, 7), key.hash(&view, 8)]);
        (key.hash(&view, 7), key.text(&view))
    }

    #[test]
    fn reference_vector() {
        let message: Vec<u8> = (0..15).collect();
        let (k0, k1) = (0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(sip::<2, 4>(k0, k1, &message), 0xa129_ca61_49be_45e5, "the paper's appendix A");
        let mut std = std::hash::DefaultHasher::new();
        std.write(b"portcullis");
        assert_eq!(
            sip13(0, 0, b"portcullis"),
            std.finish(),
            "the standard library hashes with SipHash-1-3 and zero keys"
        );
    }

    #[test]
    fn a_missing_part_is_the_address() {
        let with = hash("header.x-key", "10.0.0.1", &[("x-key", "k")]);
        assert_eq!(with, hash("header.x-key", "10.0.0.2", &[("x-key", "k")]), "the header alone counts");
        let without = hash("header.x-key", "10.0.0.1", &[]);
        assert_eq!(without.1, "10.0.0.1");
        assert_ne!(without.0, hash("header.x-key", "10.0.0.2", &[]).0);
        assert_eq!(without.0, hash("header.x-key", "10.0.0.1", &[("x-key", "")]).0, "empty is missing");
        assert_ne!(
            without.0,
            hash("header.x-key", "9.9.9.9", &[("x-key", "10.0.0.1")]).0,
            "nobody poses as an address"
        );
    }

    #[test]
    fn ipv6_counts_by_its_network() {
        let one = hash("ip", "2001:db8:0:1::1", &[]);
        assert_eq!(one.1, "2001:db8:0:1::/64");
        assert_eq!(one.0, hash("ip", "2001:db8:0:1:ffff::2", &[]).0);
        assert_ne!(one.0, hash("ip", "2001:db8:0:2::1", &[]).0);
        assert_eq!(hash("ip", "::ffff:10.0.0.1", &[]), hash("ip", "10.0.0.1", &[]));
    }

    #[test]
    fn parts_do_not_run_together() {
        let ab_c = hash("header.a+header.b", "::1", &[("a", "ab"), ("b", "c")]).0;
        assert_ne!(ab_c, hash("header.a+header.b", "::1", &[("a", "a"), ("b", "bc")]).0);
        assert_eq!(hash("ip + route", "10.0.0.1", &[]).1, "10.0.0.1+users");
    }

    #[test]
    fn faults_have_their_place() {
        for (text, at, why) in [
            ("", 0..0, "an empty key"),
            ("ip+", 3..3, "an empty key"),
            ("ip+rout", 3..7, "did you mean `route`"),
            ("ip + headr.x", 5..12, "did you mean `header.x`"),
            ("ip+method", 3..9, "tells no clients apart"),
            ("ip+ip", 3..5, "stands twice"),
        ] {
            let bad = text.parse::<Key>().unwrap_err();
            assert!(bad.at == at && bad.why.contains(why), "{text}: {bad:?}");
        }
        assert_eq!("ip+header.X-A".parse::<Key>().unwrap().to_string(), "ip+header.x-a");
    }
}
