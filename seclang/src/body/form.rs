//! `a=1&b=2`: query strings and form bodies. A name may stand without `=`, and the same name many times.

use crate::link::Options;
use crate::store::{Fields, Span, Store};
use crate::transform::url_decode;
use crate::vars::Var;

pub fn parse(text: &[u8], options: &Options, into: Fields, store: &mut Store) {
    let mut valid = true;
    for pair in text.split(|b| *b == options.separator).filter(|p| !p.is_empty()) {
        if store.args() >= options.arguments_limit {
            // More than the limit are counted as an error and not taken apart; the raw text is still looked at.
            store.set(Var::UrlencodedError, b"1");
            store.set(Var::ReqbodyError, b"1");
            store.set(Var::ReqbodyErrorMsg, b"more arguments than the limit");
            return;
        }
        let (name, value) = match memchr::memchr(b'=', pair) {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &b""[..]),
        };
        let name = decoded(name, store, &mut valid);
        let value = decoded(value, store, &mut valid);
        store.add(into, name, value);
    }
    if !valid {
        store.set(Var::UrlencodedError, b"1");
    }
}

fn decoded(text: &[u8], store: &mut Store, valid: &mut bool) -> Span {
    let (span, ok) = store.push_with(|out| url_decode(text, out, false));
    *valid &= ok;
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs() {
        let mut store = Store::default();
        parse(b"a=1+2&b&&c=%3d=&a=%zz", &Options::default(), Fields::ArgsGet, &mut store);
        let list: Vec<_> = store
            .fields(Fields::ArgsGet)
            .iter()
            .map(|f| {
                let text = |s| String::from_utf8_lossy(store.get(s)).into_owned();
                format!("{}|{}", text(f.key), text(f.value))
            })
            .collect();
        assert_eq!(list, ["a|1 2", "b|", "c|==", "a|%zz"]);
        assert_eq!(store.one(Var::UrlencodedError), Some(&b"1"[..]));
    }
}
