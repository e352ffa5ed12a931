//! `@detectSQLi`: libinjection's fingerprints, behind a gate.
//!
//! Taking a value apart costs a microsecond or more, and most values are words. The gate proves for most of them that no
//! fingerprint can come out: a value without quotes, parentheses, comments, logic operators and without any word that SQL
//! knows becomes nothing but names, numbers, operators and separators, and no fingerprint is made of these alone. That last
//! fact is checked against the library's table by a test.

use std::sync::LazyLock;

use libinjectionrs::sqli::sqli_data::SQL_KEYWORDS;
use libinjectionrs::{SqliFlags, SqliState};

use super::Captures;
use crate::transform::ByteSet;

/// The fingerprint becomes `TX:0`.
pub fn detect(value: &[u8], captures: Option<&mut Captures>) -> bool {
    if !possible(value) {
        return false;
    }
    // Not `detect_sqli` of the crate: that one makes the fingerprint a second time.
    let mut state = SqliState::new(value, SqliFlags::FLAG_NONE);
    let found = state.detect();
    if let (true, Some(out)) = (found, captures) {
        out.push((0, state.fingerprint_string().into_bytes()));
    }
    found
}

/// Bytes that by themselves become names, numbers, operators or separators.
const CALM: ByteSet =
    ByteSet::of(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_. \t\n\r\x0b\x0c,:;?/=+-*<>%^~");

/// Longest word that the library looks up.
const WORD_LIMIT: usize = 32;

/// Whether a fingerprint may come out at all.
pub fn possible(value: &[u8]) -> bool {
    let mut start = 0;
    for (i, &b) in value.iter().enumerate() {
        if b.is_ascii_alphanumeric() || b == b'_' {
            continue;
        }
        // A comment: `--` or `/*`.
        let pair = i.checked_sub(1).map(|j| (value[j], b));
        if !CALM.contains(b) || matches!(pair, Some((b'-', b'-') | (b'/', b'*'))) {
            return true;
        }
        if KNOWN.holds(&value[start..i]) {
            return true;
        }
        start = i + 1;
    }
    KNOWN.holds(&value[start..])
}

/// The words of SQL as a filter: it may take another word for one of them, never the reverse.
struct Words(Vec<u64>);

const BITS: usize = 16;

static KNOWN: LazyLock<Words> = LazyLock::new(|| {
    let mut words = Words(vec![0; 1 << (BITS - 6)]);
    for keyword in SQL_KEYWORDS.iter().filter(|k| k.token_type != b'F') {
        // Every part counts: the library joins words ("WAITFOR DELAY") and cuts them at dots.
        for part in keyword.word.split([' ', '.']) {
            let at = part.bytes().rev().fold(SEED, mix) as usize % (1 << BITS);
            words.0[at >> 6] |= 1 << (at & 63);
        }
    }
    words
});

const SEED: u32 = 0x9747_b28c;

fn mix(hash: u32, b: u8) -> u32 {
    (hash ^ u32::from(b.to_ascii_uppercase())).wrapping_mul(0x0100_0193).rotate_left(5)
}

impl Words {
    /// Whether a run of word characters may hold a known word. A number at its start may end anywhere (`1or`, `0x1union`),
    /// so then every tail counts. Hashed from the end, so that each tail is one step more.
    fn holds(&self, run: &[u8]) -> bool {
        let Some(first) = run.first() else { return false };
        let tails = first.is_ascii_digit();
        if !tails && run.len() > WORD_LIMIT {
            return false;
        }
        let mut hash = SEED;
        for (i, &b) in run.iter().enumerate().rev().take(WORD_LIMIT) {
            hash = mix(hash, b);
            if (i == 0 || tails) && !b.is_ascii_digit() {
                let at = hash as usize % (1 << BITS);
                if self.0[at >> 6] >> (at & 63) & 1 == 1 {
                    return true;
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The proof behind the gate.
    #[test]
    fn no_fingerprint_is_made_of_calm_tokens() {
        let prints = SQL_KEYWORDS.iter().filter(|k| k.token_type == b'F').map(|k| &k.word[1..]);
        let calm: Vec<&str> = prints.filter(|p| p.bytes().all(|b| b"N1O,.:;?".contains(&b))).collect();
        assert!(calm.is_empty(), "{calm:?}");
    }

    #[test]
    fn known_words_open_the_gate() {
        for text in
            ["1 union select 2", "1or 1", "a.sleep", "x;drop", "0x1union all", "a--", "a/**/b", "ORDER BY 1", "x'"]
        {
            assert!(possible(text.as_bytes()), "{text}");
        }
        for text in
            ["hello world", "a-b_c.png", "12:30", "", "550e8400-e29b-41d4", "image/webp;q=0.9", "2024-01-02 10:00"]
        {
            assert!(!possible(text.as_bytes()), "{text}");
        }
    }

    /// The gate never keeps out what the library finds.
    #[test]
    fn the_gate_is_sound() {
        let parts = [
            "1", "a", "or", "and", "union", "select", " ", " ", "=", ".", ",", ";", "-", "--", "/", "/*", "*/", "0x1",
            "x", "1e", "'", "\"", "(", ")", "sleep", "waitfor", "delay", "not", "in", "is", "null", "_", "@", "#", "+",
            "<", ">", ":", "?", "%", "^", "~", "*", "!", "|", "&", "like", "having", "table", "users", "b", "n", "if",
            "else",
        ];
        let mut seed = 99u64;
        let mut found = 0;
        for _ in 0..60_000 {
            let mut text = String::new();
            for _ in 0..8 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push_str(parts[(seed >> 33) as usize % parts.len()]);
            }
            let is = SqliState::new(text.as_bytes(), SqliFlags::FLAG_NONE).detect();
            found += usize::from(is);
            assert!(!is || possible(text.as_bytes()), "{text:?}");
        }
        assert!(found > 1000, "{found}");
    }
}
