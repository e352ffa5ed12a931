//! Values on their way into a URL: what a client sent may fill a place there, never make one.
//!
//! A capture is a piece of a canonical path and goes into a path as it is; into a query it goes with `&`, `=` and `+`
//! encoded, which mean nothing in a path. A header's or a cookie's text is not encoded at all yet.

use filters::expr::Var;
use std::fmt::Write;

/// Appends a value to a path.
pub(crate) fn in_path(var: &Var, value: &str, out: &mut String) {
    match var {
        Var::Path | Var::Capture(_) => out.push_str(value),
        Var::Query(_) => encode(value, b"%+", out, true),
        _ => encode(value, b"", out, false),
    }
}

/// Appends a value to a query.
pub(crate) fn in_query(var: &Var, value: &str, out: &mut String) {
    match var {
        Var::Path | Var::Capture(_) => encode(value, b"%/:@,", out, false),
        Var::Query(_) => encode(value, b"%+=/:@,;!$'()*?", out, false),
        _ => encode(value, b"", out, false),
    }
}

/// Percent-encodes what is not unreserved (RFC 3986, section 2.3) nor in `keep`; `plus` is a space of a query.
fn encode(value: &str, keep: &[u8], out: &mut String, plus: bool) {
    for b in value.bytes() {
        match b {
            b'+' if plus => out.push_str("%20"),
            _ if b.is_ascii_alphanumeric() || b"-._~".contains(&b) || keep.contains(&b) => out.push(b as char),
            _ => write!(out, "%{b:02X}").expect("a String takes everything"),
        }
    }
}
