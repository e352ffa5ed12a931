//! HTML entities to bytes: numeric ones (decimal, hex, with or without the semicolon) and the named ones that matter.

/// The names that a browser needs to build markup and script, and what ModSecurity knows beside them.
const NAMED: &[(&[u8], u8)] = &[
    (b"quot", b'"'),
    (b"amp", b'&'),
    (b"lt", b'<'),
    (b"gt", b'>'),
    (b"nbsp", 0xa0),
    (b"apos", b'\''),
    (b"tab", b'\t'),
    (b"newline", b'\n'),
    (b"colon", b':'),
    (b"semi", b';'),
    (b"comma", b','),
    (b"excl", b'!'),
    (b"num", b'#'),
    (b"dollar", b'$'),
    (b"percnt", b'%'),
    (b"lpar", b'('),
    (b"rpar", b')'),
    (b"ast", b'*'),
    (b"plus", b'+'),
    (b"period", b'.'),
    (b"sol", b'/'),
    (b"equals", b'='),
    (b"quest", b'?'),
    (b"commat", b'@'),
    (b"lsqb", b'['),
    (b"lbrack", b'['),
    (b"bsol", b'\\'),
    (b"rsqb", b']'),
    (b"rbrack", b']'),
    (b"hat", b'^'),
    (b"lowbar", b'_'),
    (b"grave", b'`'),
    (b"lcub", b'{'),
    (b"lbrace", b'{'),
    (b"verbar", b'|'),
    (b"vert", b'|'),
    (b"rcub", b'}'),
    (b"rbrace", b'}'),
];

pub fn decode(input: &[u8], out: &mut Vec<u8>) {
    let mut i = 0;
    while i < input.len() {
        match (input[i] == b'&').then(|| entity(&input[i + 1..])).flatten() {
            Some((byte, len)) => {
                out.push(byte);
                i += 1 + len;
            }
            None => {
                out.push(input[i]);
                i += 1;
            }
        }
    }
}

/// The byte of an entity and its length after the `&`.
fn entity(rest: &[u8]) -> Option<(u8, usize)> {
    let (byte, len) = match rest {
        [b'#', b'x' | b'X', digits @ ..] => {
            let n = digits.iter().take_while(|b| b.is_ascii_hexdigit()).count();
            (number(&digits[..n], 16)?, 2 + n)
        }
        [b'#', digits @ ..] => {
            let n = digits.iter().take_while(|b| b.is_ascii_digit()).count();
            (number(&digits[..n], 10)?, 1 + n)
        }
        _ => {
            let n = rest.iter().take(16).take_while(|b| b.is_ascii_alphanumeric()).count();
            let name = &rest[..n];
            let (_, byte) = NAMED.iter().find(|(k, _)| k.eq_ignore_ascii_case(name))?;
            (*byte, n)
        }
    };
    Some((byte, len + usize::from(rest.get(len) == Some(&b';'))))
}

/// The low byte of the code point, as ModSecurity keeps it; full-width ASCII folds onto ASCII.
fn number(digits: &[u8], radix: u32) -> Option<u8> {
    if digits.is_empty() {
        return None;
    }
    let value = digits
        .iter()
        .fold(0u32, |v, b| v.saturating_mul(radix).saturating_add(char::from(*b).to_digit(radix).unwrap_or(0)));
    Some(match value {
        0xff01..=0xff5e => (value - 0xfee0) as u8,
        _ => value as u8,
    })
}
