//! Bytes that peers chose, made safe to write: every value becomes one line of valid UTF-8 that no terminal obeys.
//!
//! One escaper serves JSON and text. It also escapes what JSON would let pass but a terminal or a reader's eye would
//! not survive: DEL, the C1 controls (U+009B starts an ANSI sequence), line separators and the marks that reverse text.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Appends `bytes`, escaped as the inside of a JSON string; invalid UTF-8 becomes U+FFFD.
pub fn escape(out: &mut Vec<u8>, mut bytes: &[u8]) {
    loop {
        let clean = plain_prefix(bytes);
        out.extend_from_slice(&bytes[..clean]);
        bytes = &bytes[clean..];
        let Some(&b) = bytes.first() else { return };
        let taken = match b {
            b'"' | b'\\' => {
                out.extend_from_slice(&[b'\\', b]);
                1
            }
            b'\n' => short(out, b"\\n"),
            b'\r' => short(out, b"\\r"),
            b'\t' => short(out, b"\\t"),
            0x80.. => {
                let run = bytes.iter().position(u8::is_ascii).unwrap_or(bytes.len());
                foreign(out, &bytes[..run]);
                run
            }
            _ => {
                code(out, b.into());
                1
            }
        };
        bytes = &bytes[taken..];
    }
}

/// As [`escape`], but of an over-long value only the first `most` bytes or so, and then an ellipsis.
pub fn escape_capped(out: &mut Vec<u8>, bytes: &[u8], most: usize) {
    if bytes.len() <= most {
        return escape(out, bytes);
    }
    // Not in the middle of a character, which is at most four bytes long.
    let continues = |at: &usize| bytes[*at] & 0xc0 == 0x80;
    let cut = (most.saturating_sub(3)..=most).rev().find(|at| !continues(at)).unwrap_or(most);
    escape(out, &bytes[..cut]);
    out.extend_from_slice("…".as_bytes());
}

/// How many bytes at the front can be copied as they are. Eight at a time: the lowest marked byte is exact, since a
/// borrow only travels upwards.
fn plain_prefix(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(eight) = bytes.get(at..at + 8) {
        let w = u64::from_le_bytes(eight.try_into().expect("eight bytes"));
        let is = |b: u8| {
            let x = w ^ (LOW * u64::from(b));
            x.wrapping_sub(LOW) & !x
        };
        let below_space = w.wrapping_sub(LOW * 0x20) & !w;
        let marks = (below_space | is(b'"') | is(b'\\') | is(0x7f) | w) & HIGH;
        if marks != 0 {
            return at + marks.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let tail = &bytes[at..];
    at + tail.iter().position(|b| !matches!(b, 0x20..=0x7e) || matches!(b, b'"' | b'\\')).unwrap_or(tail.len())
}

fn short(out: &mut Vec<u8>, escaped: &[u8]) -> usize {
    out.extend_from_slice(escaped);
    1
}

/// A run without ASCII.
fn foreign(out: &mut Vec<u8>, run: &[u8]) {
    for chunk in run.utf8_chunks() {
        for c in chunk.valid().chars() {
            if misleading(c) {
                code(out, c as u32);
            } else {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Moves the cursor, breaks the line or turns the writing round. All of them are below U+10000.
fn misleading(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn code(out: &mut Vec<u8>, c: u32) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\u");
    out.extend([12, 8, 4, 0].map(|shift| HEX[(c >> shift & 0xf) as usize]));
}

/// A decimal number.
pub fn number(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// An address; IPv4 that arrived mapped into IPv6 is written as IPv4.
pub fn address(out: &mut Vec<u8>, ip: IpAddr) {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            for (octet, after) in [(a, "."), (b, "."), (c, "."), (d, "")] {
                number(out, octet.into());
                out.extend_from_slice(after.as_bytes());
            }
        }
        IpAddr::V6(v6) => put(out, format_args!("{v6}")),
    }
}

/// Address and port.
pub fn socket(out: &mut Vec<u8>, at: SocketAddr) {
    match at.ip().to_canonical() {
        ip @ IpAddr::V4(_) => address(out, ip),
        IpAddr::V6(v6) => put(out, format_args!("[{v6}]")),
    }
    out.push(b':');
    number(out, at.port().into());
}

/// Appends what `format_args!` says.
pub fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    std::io::Write::write_fmt(out, text).expect("a Vec takes everything");
}

/// RFC 3339 in UTC with milliseconds. The date is worked out once per second and thread.
pub fn time(out: &mut Vec<u8>, wall_ms: u64) {
    thread_local! {
        static LAST: Cell<(u64, [u8; 19])> = const { Cell::new((u64::MAX, [0; 19])) };
    }
    let second = wall_ms / 1000;
    let (known, mut text) = LAST.get();
    if known != second {
        text = date(second);
        LAST.set((second, text));
    }
    out.extend_from_slice(&text);
    let ms = (wall_ms % 1000) as u16;
    let digit = |n: u16| b'0' + (n % 10) as u8;
    out.extend_from_slice(&[b'.', digit(ms / 100), digit(ms / 10), digit(ms), b'Z']);
}

/// `2026-11-23T05:27:36`.
fn date(second: u64) -> [u8; 19] {
    let (year, month, day) = civil(second / 86400);
    let rest = second % 86400;
    let mut text = *b"0000-00-00T00:00:00";
    let parts = [
        (0, year / 100),
        (2, year % 100),
        (5, month),
        (8, day),
        (11, rest / 3600),
        (14, rest / 60 % 60),
        (17, rest % 60),
    ];
    for (at, n) in parts {
        text[at] = b'0' + (n / 10 % 10) as u8;
        text[at + 1] = b'0' + (n % 10) as u8;
    }
    text
}

/// Year, month and day of a day since 1970. Counted in years that begin in March, so that the leap day is the last.
fn civil(day: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097; // days in 400 years
    let shifted = day + 719_468; // since 0000-03-01
    let (era, of_era) = (shifted / ERA, shifted % ERA);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(bytes: &[u8]) -> String {
        let mut out = vec![];
        escape(&mut out, bytes);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_a_peer_may_try() {
        for (raw, safe) in [
            (&b"plain /path?x=1"[..], "plain /path?x=1"),
            (b"say \"hi\" \\ there", r#"say \"hi\" \\ there"#),
            (b"a\r\nb\tc\0d", r"a\r\nb\tc\u0000d"),
            (b"\x1b[2J\x7f", r"\u001b[2J\u007f"),
            ("grüße 🦀".as_bytes(), "grüße 🦀"),
            ("\u{9b}31m".as_bytes(), r"\u009b31m"),
            ("\u{202e}gpj.exe \u{2028} \u{feff}".as_bytes(), r"\u202egpj.exe \u2028 \ufeff"),
            (b"\xff\xfe ok \xe2\x82", "\u{fffd}\u{fffd} ok \u{fffd}"),
            (b"\xed\xa0\x80", "\u{fffd}\u{fffd}\u{fffd}"),
            (b"1234567\"12345678\\", r#"1234567\"12345678\\"#),
        ] {
            assert_eq!(escaped(raw), safe);
        }
    }

    #[test]
    fn long_values_end_in_an_ellipsis_and_never_inside_a_character() {
        let mut out = vec![];
        escape_capped(&mut out, "äöü".as_bytes(), 3);
        assert_eq!(String::from_utf8(out).unwrap(), "ä…");
        let mut out = vec![];
        escape_capped(&mut out, b"abc", 3);
        assert_eq!(out, b"abc");
        let mut out = vec![];
        escape_capped(&mut out, &[0x80; 9], 1);
        assert_eq!(String::from_utf8(out).unwrap(), "\u{fffd}…");
    }

    #[test]
    fn numbers_and_addresses() {
        let text = |f: &dyn Fn(&mut Vec<u8>)| {
            let mut out = vec![];
            f(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(&|o| number(o, 0)), "0");
        assert_eq!(text(&|o| number(o, u64::MAX)), u64::MAX.to_string());
        assert_eq!(text(&|o| address(o, "::ffff:10.0.255.7".parse().unwrap())), "10.0.255.7");
        assert_eq!(text(&|o| socket(o, "[2001:db8::1]:443".parse().unwrap())), "[2001:db8::1]:443");
        assert_eq!(text(&|o| socket(o, "1.2.3.4:80".parse().unwrap())), "1.2.3.4:80");
    }

    #[test]
    fn times() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_164_800_001, "2024-02-29T00:00:00.001Z"),
            (1_735_689_599_050, "2024-12-31T23:59:59.050Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            let mut out = vec![];
            time(&mut out, ms);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_become_one_valid_json_string(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let text = format!("\"{}\"", escaped(&bytes));
            let back: String = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(back, String::from_utf8_lossy(&bytes));
            prop_assert!(!text.chars().any(misleading));
        }

        #[test]
        fn dates_count_up_by_days(day in 0_u64..200_000) {
            let ((y, m, d), (y2, m2, d2)) = (civil(day), civil(day + 1));
            prop_assert!((y2, m2, d2) > (y, m, d));
            let follows = if m2 == m { d2 == d + 1 } else { d2 == 1 && d >= 28 };
            prop_assert!(follows);
        }
    }
}
