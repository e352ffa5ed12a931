//! Request bodies taken apart: into arguments, files, part headers, XML text. Every reader is bounded and never fails hard:
//! what could be read is kept for the rules, and the error is there for the rules to see (`REQBODY_ERROR`).

pub mod form;
mod json;
mod multipart;
mod xml;

use crate::link::Options;
use crate::store::{Fields, Store};
use crate::vars::Var;

/// The reader for a content type: `URLENCODED`, `MULTIPART`, `JSON`, `XML` or nothing.
pub fn processor(content_type: &[u8]) -> &'static str {
    let kind = content_type.split(|b| matches!(b, b';' | b',' | b' ')).next().unwrap_or_default();
    let kind = kind.trim_ascii().to_ascii_lowercase();
    let ends = |suffix: &[u8]| kind.ends_with(suffix);
    match kind.as_slice() {
        b"application/x-www-form-urlencoded" => "URLENCODED",
        b"multipart/form-data" => "MULTIPART",
        b"application/json" | b"text/json" => "JSON",
        b"text/xml" | b"application/xml" => "XML",
        _ if ends(b"+json") => "JSON",
        _ if ends(b"+xml") => "XML",
        _ => "",
    }
}

/// Fills the store from a body. `cut`: bytes are missing at its end.
pub fn read(body: &[u8], cut: bool, force_variable: bool, options: &Options, store: &mut Store) {
    let processor = store.one(Var::ReqbodyProcessor).unwrap_or_default().to_vec();
    let error = match processor.as_slice() {
        b"URLENCODED" => {
            form::parse(body, options, Fields::ArgsPost, store);
            None
        }
        b"MULTIPART" => multipart::parse(body, cut, options, store).err(),
        b"JSON" => json::parse(body, options, store).err().filter(|_| !cut),
        b"XML" => xml::parse(body, options, store).err().filter(|_| !cut),
        _ => None,
    };
    let raw = match processor.as_slice() {
        b"URLENCODED" => true,
        b"" => force_variable,
        // What could not be taken apart is looked at as it is.
        _ => force_variable || error.is_some(),
    };
    if raw {
        store.set(Var::RequestBody, body);
    }
    if let Some(reason) = error {
        store.set(Var::ReqbodyError, b"1");
        store.set(Var::ReqbodyProcessorError, b"1");
        store.set(Var::ReqbodyErrorMsg, reason.as_bytes());
        store.set(Var::ReqbodyProcessorErrorMsg, reason.as_bytes());
    }
}

/// Takes a `Cookie` header apart (RFC 6265, section 4.2.1, read forgivingly): values stay as they are.
pub fn cookies(header: &[u8], store: &mut Store) {
    for pair in header.split(|b| *b == b';') {
        let pair = pair.trim_ascii();
        if pair.is_empty() {
            continue;
        }
        let (name, value) = match memchr::memchr(b'=', pair) {
            Some(at) => (pair[..at].trim_ascii_end(), pair[at + 1..].trim_ascii_start()),
            None => (pair, &b""[..]),
        };
        store.add_text(Fields::Cookies, name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        for (kind, expected) in [
            (&b"application/x-www-form-urlencoded; charset=utf-8"[..], "URLENCODED"),
            (b"Multipart/Form-Data; boundary=x", "MULTIPART"),
            (b"application/problem+json", "JSON"),
            (b"application/soap+xml", "XML"),
            (b"text/plain", ""),
        ] {
            assert_eq!(processor(kind), expected);
        }
    }

    #[test]
    fn cookies_are_split() {
        let mut store = Store::default();
        cookies(b"a=1; b=x=y;; c", &mut store);
        let list: Vec<_> = store
            .fields(Fields::Cookies)
            .iter()
            .map(|f| (store.get(f.key).to_vec(), store.get(f.value).to_vec()))
            .collect();
        let pair = |a: &str, b: &str| (a.as_bytes().to_vec(), b.as_bytes().to_vec());
        assert_eq!(list, [pair("a", "1"), pair("b", "x=y"), pair("c", "")]);
    }
}
