//! The PROXY protocol, versions 1 and 2: what a load balancer says about the client before the client's own bytes.
//! Pure: bytes in, verdict out. Only peers that `[server] trusted` names are believed, and from them it is demanded:
//! a listener that guesses whether the header is there can be lied to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header that is read. The specification asks senders to stay below 536; type-length-values take the rest.
pub const LONGEST: usize = 4096;
/// "PROXY TCP6" with two addresses and two ports, CRLF included.
const LONGEST_V1: usize = 107;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preamble {
    /// All right so far; more bytes are needed.
    More,
    /// The header takes `len` bytes.
    Done {
        len: usize,
        /// Client and the address it connected to; none for a health check of the balancer itself.
        addresses: Option<(SocketAddr, SocketAddr)>,
    },
}

/// `Err` says what is wrong, for the log.
pub fn parse(bytes: &[u8]) -> Result<Preamble, &'static str> {
    let common = |expected: &[u8]| {
        let n = bytes.len().min(expected.len());
        bytes[..n] == expected[..n]
    };
    if common(SIGNATURE) {
        v2(bytes)
    } else if common(b"PROXY ") {
        v1(bytes)
    } else {
        Err("no PROXY header")
    }
}

fn v1(bytes: &[u8]) -> Result<Preamble, &'static str> {
    let window = &bytes[..bytes.len().min(LONGEST_V1)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if bytes.len() >= LONGEST_V1 { Err("PROXY line too long") } else { Ok(Preamble::More) };
    };
    let line = window[..end].strip_suffix(b"\r").ok_or("PROXY line does not end in CRLF")?;
    let line = std::str::from_utf8(line).map_err(|_| "PROXY line is not text")?;
    let len = end + 1;
    let mut words = line.split(' ').skip(1);
    let v6 = match words.next() {
        Some("TCP4") => false,
        Some("TCP6") => true,
        // the rest of the line is to be ignored
        Some("UNKNOWN") => return Ok(Preamble::Done { len, addresses: None }),
        _ => return Err("PROXY line of an unknown family"),
    };
    let (Some(from), Some(to), Some(from_port), Some(to_port), None) =
        (words.next(), words.next(), words.next(), words.next(), words.next())
    else {
        return Err("PROXY line without two addresses and two ports");
    };
    let address = |text: &str, port: &str| -> Option<SocketAddr> {
        let ip: IpAddr = text.parse().ok().filter(|ip: &IpAddr| ip.is_ipv6() == v6)?;
        let plain = port == "0" || (!port.starts_with('0') && port.bytes().all(|b| b.is_ascii_digit()));
        plain.then_some(())?;
        Some(SocketAddr::new(ip, port.parse().ok()?))
    };
    match (address(from, from_port), address(to, to_port)) {
        (Some(from), Some(to)) => Ok(Preamble::Done { len, addresses: Some((from, to)) }),
        _ => Err("PROXY line with a malformed address or port"),
    }
}

fn v2(bytes: &[u8]) -> Result<Preamble, &'static str> {
    let Some(&[command, family, hi, lo]) = bytes.get(12..16) else { return Ok(Preamble::More) };
    let size = usize::from(u16::from_be_bytes([hi, lo]));
    let len = 16 + size;
    if len > LONGEST {
        return Err("PROXY header too long");
    }
    let local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err("PROXY header of an unknown version or command"),
    };
    let needed = match family {
        0x00 | 0x31 | 0x32 => 0,
        0x11 => 12,
        0x21 => 36,
        _ => return Err("PROXY header of an unknown family"),
    };
    if size < needed && !local {
        return Err("PROXY header shorter than its addresses");
    }
    let Some(block) = bytes.get(16..len) else { return Ok(Preamble::More) };
    let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    let addresses = match family {
        _ if local => None,
        0x11 => {
            let ip = |at: usize| Ipv4Addr::new(block[at], block[at + 1], block[at + 2], block[at + 3]);
            Some((SocketAddr::from((ip(0), port(8))), SocketAddr::from((ip(4), port(10)))))
        }
        0x21 => {
            let ip = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&block[at..at + 16]).expect("16 bytes"));
            Some((SocketAddr::from((ip(0), port(32))), SocketAddr::from((ip(16), port(34)))))
        }
        _ => None,
    };
    Ok(Preamble::Done { len, addresses })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(bytes: &[u8]) -> (usize, Option<(String, String)>) {
        match parse(bytes) {
            Ok(Preamble::Done { len, addresses }) => (len, addresses.map(|(a, b)| (a.to_string(), b.to_string()))),
            other => panic!("{other:?} for {}", bytes.escape_ascii()),
        }
    }

    fn pair(a: &str, b: &str) -> Option<(String, String)> {
        Some((a.into(), b.into()))
    }

    #[test]
    fn version_1() {
        assert_eq!(done(b"PROXY TCP4 1.2.3.4 5.6.7.8 11 22\r\nGET"), (34, pair("1.2.3.4:11", "5.6.7.8:22")));
        assert_eq!(done(b"PROXY TCP6 ::1 fe80::2 11 0\r\n").1, pair("[::1]:11", "[fe80::2]:0"));
        assert_eq!(done(b"PROXY UNKNOWN\r\n"), (15, None));
        assert_eq!(done(b"PROXY UNKNOWN whatever it says\r\n").1, None);
        for wrong in [
            "GET / HTTP/1.1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 11 22\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 11\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 11 22 33\r\n",
            "PROXY TCP4  1.2.3.4 5.6.7.8 11 22\r\n",
            "PROXY TCP4 ::1 ::1 11 22\r\n",
            "PROXY TCP6 1.2.3.4 5.6.7.8 11 22\r\n",
            "PROXY TCP4 1.2.3 5.6.7.8 11 22\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 011 22\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +1 22\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 70000 22\r\n",
            "PROXY UDP4 1.2.3.4 5.6.7.8 11 22\r\n",
            "PROXY \r\n",
            "proxy TCP4 1.2.3.4 5.6.7.8 11 22\r\n",
        ] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
        assert!(parse(format!("PROXY UNKNOWN {}", "x".repeat(LONGEST_V1)).as_bytes()).is_err());
    }

    fn header(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let mut all = SIGNATURE.to_vec();
        all.extend_from_slice(&[command, family]);
        all.extend_from_slice(&(block.len() as u16).to_be_bytes());
        all.extend_from_slice(block);
        all
    }

    #[test]
    fn version_2() {
        let four = [1, 2, 3, 4, 5, 6, 7, 8, 0, 11, 0, 22];
        assert_eq!(done(&header(0x21, 0x11, &four)), (28, pair("1.2.3.4:11", "5.6.7.8:22")));
        let with_tlv = [&four[..], &[4, 0, 1, 9]].concat();
        assert_eq!(done(&header(0x21, 0x11, &with_tlv)).0, 32);
        let mut six = [0u8; 36];
        (six[15], six[31], six[33], six[35]) = (1, 2, 11, 22);
        assert_eq!(done(&header(0x21, 0x21, &six)).1, pair("[::1]:11", "[::2]:22"));
        assert_eq!(done(&header(0x20, 0x11, &four)).1, None);
        assert_eq!(done(&header(0x20, 0x00, &[])), (16, None));
        for wrong in [
            header(0x11, 0x11, &four),
            header(0x22, 0x11, &four),
            header(0x21, 0x13, &four),
            header(0x21, 0x11, &four[..11]),
            header(0x21, 0x21, &four),
            header(0x21, 0x11, &vec![0; LONGEST]),
        ] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_prefix_asks_for_more() {
        let four = header(0x21, 0x11, &[1, 2, 3, 4, 5, 6, 7, 8, 0, 11, 0, 22]);
        for whole in [&b"PROXY TCP4 1.2.3.4 5.6.7.8 11 22\r\n"[..], &four] {
            for n in 0..whole.len() {
                assert_eq!(parse(&whole[..n]), Ok(Preamble::More), "{n}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>, signed: bool) {
            let bytes = if signed { [&SIGNATURE[..], &bytes].concat() } else { bytes };
            if let Ok(Preamble::Done { len, .. }) = parse(&bytes) {
                assert!(len <= bytes.len() && len <= LONGEST);
            }
        }
    }
}
