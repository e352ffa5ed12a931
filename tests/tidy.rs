//! The borders of the house (ARCHITECTURE.md), held by reading the sources.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

/// All files below `dir` with one of these endings, with their paths from the root.
fn files(dir: &str, endings: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(dir)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a directory").map(|e| e.expect("an entry").path());
            open.extend(entries.filter(|p| !p.ends_with("target") && !p.ends_with(".git")));
        } else if endings.iter().any(|e| path.to_string_lossy().ends_with(e)) {
            let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
            found.push((name, fs::read_to_string(&path).expect("text")));
        }
    }
    found.sort();
    found
}

/// The code of a file without its tests and comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]\nmod") && *line != "#[cfg(test)]");
    lines.enumerate().map(|(n, line)| (n + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn offenders(files: &[(String, String)], word: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let lines = files.iter().flat_map(|(name, text)| code(text).map(move |(n, line)| (name, n, line)));
    lines
        .filter(|(name, _, line)| word(name, line))
        .map(|(name, n, line)| format!("{name}:{n}: {}", line.trim()))
        .collect()
}

#[test]
fn filters_and_seclang_know_nothing_of_the_gateway_the_network_or_the_clock() {
    let foreign = [
        "portcullis::",
        "tokio",
        "pingora::",
        "pingora_core",
        "pingora_proxy",
        "std::net::Tcp",
        "Instant::now",
        "SystemTime::now",
    ];
    let libraries = [files("filters/src", &[".rs"]), files("seclang/src", &[".rs"])].concat();
    assert!(libraries.len() > 10);
    let found = offenders(&libraries, |_, line| foreign.iter().any(|word| line.contains(word)));
    assert!(found.is_empty(), "{found:#?}");
    for manifest in ["filters/Cargo.toml", "seclang/Cargo.toml"] {
        let text = fs::read_to_string(root().join(manifest)).expect("a manifest");
        let used = text.split("[dev-dependencies]").next().unwrap_or_default();
        for crate_name in ["tokio", "pingora.", "pingora =", "pingora-core", "pingora-proxy", "portcullis ="] {
            assert!(!used.contains(crate_name), "{manifest} names {crate_name}");
        }
    }
    for library in ["filters/src/lib.rs", "seclang/src/lib.rs"] {
        let text = fs::read_to_string(root().join(library)).expect("a library");
        assert!(text.contains("#![forbid(unsafe_code)]"), "{library}");
    }
}

#[test]
fn no_filter_uses_another_and_seclang_uses_neither() {
    let list = fs::read_to_string(root().join("filters/src/lib.rs")).expect("the list");
    let list = list.split_once("filters! {").expect("the one list").1;
    let steps: Vec<&str> =
        list.lines().filter_map(|l| Some(l.trim().split_once("::")?.0)).filter(|s| !s.starts_with('/')).collect();
    assert!(steps.contains(&"ip") && steps.contains(&"cors"), "{steps:?}");
    let own = |name: &str, step: &str| {
        name == format!("filters/src/{step}.rs") || name.starts_with(&format!("filters/src/{step}/"))
    };
    let all = files("filters/src", &[".rs"]);
    let found = offenders(&all, |name, line| {
        let uses = |step: &&str| line.contains(&format!("crate::{step}::")) && !own(name, step);
        steps.iter().any(|owner| own(name, owner)) && steps.iter().any(uses)
    });
    assert!(found.is_empty(), "{found:#?}");
    assert!(offenders(&files("seclang/src", &[".rs"]), |_, line| line.contains("filters::")).is_empty());
}

#[test]
fn pingoras_session_is_named_in_few_places() {
    let allowed = [
        "gateway/src/proxy.rs",
        "gateway/src/wire.rs",
        "gateway/src/listen/",
        "gateway/src/demo/",
        "gateway/src/admin/",
    ];
    let gateway = files("gateway/src", &[".rs"]);
    let named = |line: &str| {
        line.split(|c: char| !c.is_alphanumeric()).any(|word| word == "Session" || word == "ServerSession")
    };
    let found = offenders(&gateway, |name, line| named(line) && !allowed.iter().any(|a| name.starts_with(a)));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_clock_is_read_in_one_place() {
    let found = offenders(&files("gateway/src", &[".rs"]), |name, line| {
        line.contains("SystemTime::now") && name != "gateway/src/clock.rs"
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn unsafe_code_stands_beside_its_proof() {
    let sources = [files("gateway/src", &[".rs"]), files("tests", &[".rs"])].concat();
    for (name, text) in sources {
        let lines: Vec<&str> = text.lines().collect();
        for (n, line) in lines.iter().enumerate().filter(|(_, l)| l.contains("unsafe {") && !l.contains("\"unsafe {")) {
            let proof = lines[n.saturating_sub(8)..=n].iter().any(|l| l.contains("SAFETY:"));
            assert!(proof, "{name}:{}: no proof before {}", n + 1, line.trim());
        }
    }
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let sources = ["filters", "gateway", "seclang", "tests", "benches"].map(|dir| files(dir, &[".rs"])).concat();
    let silent: Vec<_> = sources
        .iter()
        .filter(|(name, text)| !text.starts_with("//!") && !name.ends_with("tests.rs"))
        .map(|(name, _)| name)
        .collect();
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn nothing_is_left_to_do_and_nothing_is_called_a_manager() {
    let sources = ["filters/src", "gateway/src", "seclang/src"].map(|dir| files(dir, &[".rs"])).concat();
    let words = ["TODO", "FIXME", "XXX", "HACK"];
    let found: Vec<String> = sources
        .iter()
        .flat_map(|(name, text)| text.lines().enumerate().map(move |(n, line)| (name, n, line)))
        .filter(|(_, _, line)| {
            words.iter().any(|word| line.contains(&format!("{word}:")) || line.contains(&format!("{word} ")))
        })
        .map(|(name, n, line)| format!("{name}:{}: {}", n + 1, line.trim()))
        .collect();
    assert!(found.is_empty(), "{found:#?}");
    let named = offenders(&sources, |_, line| {
        ["struct ", "enum ", "trait "].iter().any(|kind| {
            let name = line
                .split(kind)
                .nth(1)
                .unwrap_or_default()
                .split(|c: char| !c.is_alphanumeric())
                .next()
                .unwrap_or_default();
            name.ends_with("Manager") || name.ends_with("Helper") || name.ends_with("Util")
        })
    });
    assert!(named.is_empty(), "{named:#?}");
}

/// A function over 60 lines is a smell; this is the thermometer, and its limit is what was there.
#[test]
fn functions_are_short() {
    let sources = ["filters/src", "gateway/src", "seclang/src"].map(|dir| files(dir, &[".rs"])).concat();
    let (mut total, mut long, mut longest) = (0, 0, (0, String::new()));
    for (name, text) in &sources {
        let lines: Vec<&str> = text.lines().take_while(|l| *l != "#[cfg(test)]").collect();
        total += lines.len();
        let mut start: Option<(usize, usize)> = None;
        for (n, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let code = line.trim_start();
            if code.contains("fn ") && !code.starts_with("//") && !code.ends_with(';') {
                start = Some((n, indent));
            } else if let Some((from, at)) = start
                && code == "}"
                && indent == at
            {
                let length = n - from + 1;
                if length > 60 {
                    long += length;
                }
                if length > longest.0 {
                    longest = (length, format!("{name}:{}", from + 1));
                }
                start = None;
            }
        }
    }
    let share = 100.0 * f64::from(long as u32) / f64::from(total as u32);
    println!(
        "{share:.1} % of {total} lines are in functions over 60 lines; the longest has {} ({})",
        longest.0, longest.1
    );
    assert!(
        share <= 5.0,
        "{share:.1} % of the code is in functions over 60 lines; the longest is {} with {}",
        longest.1,
        longest.0
    );
}
