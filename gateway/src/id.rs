//! Request ids and trace ids: random, short, and from one generator per thread.
//!
//! A request id is 80 random bits in hex, so that it needs no allocation; the trace id (W3C Trace Context) ends with
//! the same 80 bits, so that either finds the other. They are names, not secrets.

use smol_str::SmolStr;
use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};

thread_local! {
    static STATE: Cell<u64> = Cell::new(RandomState::new().build_hasher().finish());
}

/// 64 random bits (SplitMix64, seeded from the system once per thread).
pub fn random() -> u64 {
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        let z = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

fn hex<const N: usize>(mut high: u64, mut low: u64) -> [u8; N] {
    let mut out = [b'0'; N];
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(low & 15) as usize];
        low = low >> 4 | high << 60;
        high >>= 4;
    }
    out
}

/// A new request id: 20 hex digits.
pub fn request() -> SmolStr {
    let digits = hex::<20>(random() & 0xffff, random());
    SmolStr::new(std::str::from_utf8(&digits).expect("hex is ASCII"))
}

/// A request id that a trusted peer sent: 1 to 128 visible characters, else it is not taken over.
pub fn adopted(sent: &str) -> Option<SmolStr> {
    let fits = (1..=128).contains(&sent.len()) && sent.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
    fits.then(|| SmolStr::new(sent))
}

/// The trace that a request belongs to (W3C Trace Context).
#[derive(Debug, Clone)]
pub enum Trace {
    /// A `traceparent` of our own.
    Ours([u8; 55]),
    /// That of a trusted peer, which goes upstream as it came: its trace id.
    Adopted(SmolStr),
}

impl Trace {
    /// The trace of a request that brought none: its id ends with the request id where that is one of ours. It is
    /// marked as sampled, since a parent-based sampler would otherwise record nothing.
    pub fn new(request: &str) -> Trace {
        let mut parent = *b"00-00000000000000000000000000000000-0000000000000000-01";
        parent[3..15].copy_from_slice(&hex::<12>(0, random() >> 16 | 1));
        let ours = request.len() == 20 && request.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let tail = if ours { SmolStr::new(request) } else { self::request() };
        parent[15..35].copy_from_slice(tail.as_bytes());
        parent[36..52].copy_from_slice(&hex::<16>(0, random() | 1));
        Trace::Ours(parent)
    }
    /// The trace that a `traceparent` names, if it is well-formed.
    pub fn adopt(traceparent: &str) -> Option<Trace> {
        trace_id(traceparent).map(|id| Trace::Adopted(SmolStr::new(id)))
    }
    /// The trace id: 32 hex digits.
    pub fn id(&self) -> &str {
        match self {
            Trace::Ours(parent) => std::str::from_utf8(&parent[3..35]).expect("hex is ASCII"),
            Trace::Adopted(id) => id,
        }
    }
}

/// The trace id of a well-formed `traceparent`.
fn trace_id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |s: &str, len| s.len() == len && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let zero = |s: &str| s.bytes().all(|b| b == b'0');
    let fits = hex(version, 2) && version != "ff" && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
    let closed = version != "00" || parts.next().is_none();
    (fits && closed && !zero(trace) && !zero(span)).then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_have_their_form() {
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| request()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 20 && !id.is_heap_allocated()));
    }

    #[test]
    fn a_trace_ends_with_the_request_id() {
        let id = request();
        let Trace::Ours(parent) = Trace::new(&id) else { panic!("a trace of our own") };
        let text = std::str::from_utf8(&parent).expect("ASCII");
        assert!(trace_id(text).expect("well-formed").ends_with(id.as_str()));
        assert_eq!(Trace::new("from elsewhere").id().len(), 32);
    }

    #[test]
    fn malformed_traceparents_are_not_taken_over() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(trace_id(good), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        for bad in [
            "",
            "00",
            &good[1..],
            &good.to_uppercase(),
            &good.replacen("00-4", "ff-4", 1),
            &format!("{good}-00"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert_eq!(trace_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_printable_ids_are_adopted() {
        assert_eq!(adopted("abc-123").as_deref(), Some("abc-123"));
        for bad in ["", "a b", "a\nb", "a\"b", "ä", &"x".repeat(129)] {
            assert_eq!(adopted(bad), None);
        }
    }
}
