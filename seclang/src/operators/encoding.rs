//! `@validateByteRange`, `@validateUrlEncoding`, `@validateUtf8Encoding`: is this well formed?

use crate::transform::ByteSet;

/// `1-255` or `9,10,13,32-126`.
pub fn byte_range(text: &str) -> Result<ByteSet, String> {
    let mut set = ByteSet::EMPTY;
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let bad = |_| format!("byte range {part:?}: expected a number or <from>-<to>, 0 to 255");
        let (from, to): (u8, u8) = (from.trim().parse().map_err(bad)?, to.trim().parse().map_err(bad)?);
        (from..=to).for_each(|b| set.insert(b));
    }
    Ok(set)
}

pub fn valid_url(value: &[u8]) -> bool {
    let hex = |b: Option<&u8>| b.is_some_and(u8::is_ascii_hexdigit);
    memchr::memchr_iter(b'%', value).all(|i| hex(value.get(i + 1)) && hex(value.get(i + 2)))
}

/// RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
pub fn valid_utf8(value: &[u8]) -> bool {
    std::str::from_utf8(value).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let set = byte_range("9,10, 32-34").unwrap();
        assert!(set.contains(33) && !set.contains(35));
        assert!(byte_range("1-999").is_err());
    }

    #[test]
    fn encodings() {
        assert!(valid_url(b"a%20b") && !valid_url(b"100%") && !valid_url(b"%zz"));
        assert!(valid_utf8("é".as_bytes()) && !valid_utf8(b"\xc0\xaf"));
    }
}
