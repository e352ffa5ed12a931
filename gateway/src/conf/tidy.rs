//! What no compiler checks: which words the configuration's types must not contain.

use std::fs;
use std::path::{Path, PathBuf};

/// Every Rust file of the gateway and the filters, with its text.
fn files() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, all: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).expect("a folder of the sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, all);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("conf/tidy.rs") {
                let text = fs::read_to_string(&path).expect("sources are text");
                all.push((path, text));
            }
        }
    }
    let gateway = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = vec![];
    walk(&gateway.join("src"), &mut all);
    walk(&gateway.join("../filters/src"), &mut all);
    assert!(all.len() > 40, "the sources were not found");
    all
}

/// Each attribute `serde(…)` or `schemars(…)` with the line it starts in.
fn attributes(text: &str) -> Vec<(usize, &str)> {
    let mut all = vec![];
    for word in ["serde(", "schemars("] {
        for (at, _) in text.match_indices(word) {
            let end = text[at..].find(")]").map_or(text.len(), |e| at + e);
            let comment = text[..at].rsplit('\n').next().is_some_and(|l| l.trim_start().starts_with("//"));
            if !comment {
                all.push((text[..at].matches('\n').count() + 1, &text[at..end]));
            }
        }
    }
    all
}

/// Both buffer what they read: places are lost, and misspelt keys are accepted in silence.
#[test]
fn no_type_is_untagged_or_flattened() {
    let mut wrong = vec![];
    for (path, text) in files() {
        // the one struct that is never read, only described
        let described = path.ends_with("conf/schema.rs");
        for (line, attribute) in attributes(&text) {
            let bad = attribute.contains("untagged") || attribute.contains("flatten") && !described;
            if bad {
                wrong.push(format!("{}:{line}: {attribute})", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A field that is read from the file and named like a secret is a `Secret`: nothing else keeps it from being printed.
#[test]
fn what_is_named_like_a_secret_is_one() {
    let mut wrong = vec![];
    for (path, text) in files() {
        for body in text.match_indices("Deserialize").map(|(at, _)| item(&text[at..])) {
            for line in body.lines() {
                let Some((name, kind)) = line.trim().trim_start_matches("pub ").split_once(": ") else { continue };
                let secret = name.split('_').any(|w| ["secret", "token", "password", "passphrase"].contains(&w));
                if secret && !kind.contains("Secret") {
                    wrong.push(format!("{}: {}", path.display(), line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The body of the struct that a derive stands above; nothing for an enum, a newtype or a hand-written impl.
fn item(text: &str) -> &str {
    let Some(open) = text.find('{') else { return "" };
    if !text[..open].contains("struct ") || text[..open].contains("impl") || text[..open].contains(';') {
        return "";
    }
    &text[open..text[open..].find("\n}").map_or(text.len(), |e| open + e)]
}

#[test]
fn the_words_are_found_where_they_stand() {
    assert_eq!(attributes("x\n#[serde(default, flatten)]\n// serde(untagged)\n"), [(2, "serde(default, flatten")]);
    assert!(item("Deserialize)]\npub struct A {\n    pub token: String,\n}\n").contains("token: String"));
    assert_eq!(item("Deserialize)]\nenum A { B }"), "");
}
