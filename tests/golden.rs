//! Runs `golden/*.txt`. A file is one behaviour, told in sections:
//!
//! ```text
//! What is shown, in a sentence or two.
//!
//! --- config               the TOML; {origin}, {origin2} and {refusing} are addresses
//! --- origin answers       what the origin sends for the next request; without it, 200 and "ok"
//! --- request              a request; the connection of the one before is used again
//! --- origin sees          lines that its request must have
//! --- response             lines that the response must have
//! --- log                  JSON that the request's record must contain
//! ```
//!
//! Lines of heads end with CRLF. In the sections of expectation the first line must be equal (up to a `*` at its end),
//! `Name: value` must be there, `Name: *` with any value, `!Name` must not be there; what follows an empty line is the
//! body, if one is given. `--- request, new connection` and `--- origin answers, then closes` (or `then resets`) mean
//! what they say; `raw` after a comma means that the line ends in the file are not sent: `\r\n`, `\0`, `\xff` are.
//! `--- origin sees nothing` and `--- closed` have no content.

use crate::support::message::Head;
use crate::support::origin::Refusing;
use crate::support::{Client, Gateway, Origin, Watched};
use serde_json::Value;
use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

struct Section {
    title: String,
    text: String,
}

impl Section {
    fn is(&self, what: &str) -> bool {
        self.title.split(',').next() == Some(what)
    }
    fn has(&self, word: &str) -> bool {
        self.title.split(", ").skip(1).any(|w| w == word)
    }
    /// What goes over the wire.
    fn bytes(&self) -> Vec<u8> {
        if self.has("raw") {
            return unescape(&self.text.replace('\n', ""));
        }
        let (head, body) = self.text.split_once("\n\n").unwrap_or((self.text.trim_end_matches('\n'), ""));
        format!("{}\r\n\r\n{}", head.replace('\n', "\r\n"), body.trim_end_matches('\n')).into_bytes()
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let plain = match (byte, byte == b'\\') {
            (_, true) => match rest.next() {
                Some(b'r') => b'\r',
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'0') => 0,
                Some(b'\\') => b'\\',
                Some(b'x') => {
                    let digits = [rest.next().expect("a digit"), rest.next().expect("a digit")];
                    u8::from_str_radix(std::str::from_utf8(&digits).expect("digits"), 16).expect("two hex digits")
                }
                other => panic!("unknown escape {other:?}"),
            },
            (plain, false) => plain,
        };
        bytes.push(plain);
    }
    bytes
}

fn sections(file: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for line in file.lines() {
        match (line.strip_prefix("--- "), sections.last_mut()) {
            (Some(title), _) => sections.push(Section { title: title.trim().to_owned(), text: String::new() }),
            (None, Some(section)) => {
                section.text.push_str(line);
                section.text.push('\n');
            }
            // The story before the first section.
            (None, None) => {}
        }
    }
    sections
}

/// Whether a message is as a section says.
fn differs(expected: &str, head: &Head, body: &[u8]) -> Option<String> {
    let (lines, text) = expected.split_once("\n\n").unwrap_or((expected.trim_end(), ""));
    let mut lines = lines.lines();
    let first = lines.next().unwrap_or_default();
    let same = match first.strip_suffix('*') {
        Some(start) => head.first.starts_with(start),
        None => head.first == first,
    };
    if !same {
        return Some(format!("expected {first:?}, found {:?}", head.first));
    }
    for line in lines {
        if let Some(name) = line.strip_prefix('!') {
            if let Some(value) = head.header(name.trim()) {
                return Some(format!("expected no {name}, found {value:?}"));
            }
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let (name, value) = (name.trim(), value.trim());
        let found = head.all(name);
        if !found.iter().any(|v| *v == value || (value == "*" && !v.is_empty())) {
            return Some(format!("expected {name}: {value}, found {found:?}"));
        }
    }
    let text = text.trim_end_matches('\n');
    let body = String::from_utf8_lossy(body);
    let same = text.is_empty()
        || text == body.trim_end_matches('\n')
        || text.strip_suffix('*').is_some_and(|t| body.starts_with(t));
    (!same).then(|| format!("expected the body {text:?}, found {body:?}"))
}

fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|found| contains(found, value)))
        }
        (Value::Array(whole), Value::Array(part)) => part.iter().all(|p| whole.iter().any(|w| contains(w, p))),
        (whole, part) => whole == part,
    }
}

/// What the origin does for each request, in order.
type Script = Watched<VecDeque<(Vec<u8>, &'static str)>>;

fn origin(script: &Script) -> Origin {
    let script = script.clone();
    Origin::new(move |conn| {
        while conn.request()?.is_some() {
            let next = script.change(VecDeque::pop_front);
            let (answer, then) = next.unwrap_or((b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(), ""));
            conn.say(answer)?;
            match then {
                "closes" => return Ok(()),
                "resets" => return conn.reset(),
                _ => {}
            }
        }
        Ok(())
    })
}

fn play(path: &Path) -> Result<(), String> {
    let file = fs::read_to_string(path).map_err(|e| e.to_string())?;
    let sections = sections(&file);
    let script: Script = Watched::new(VecDeque::new());
    let (first, second, refusing) = (origin(&script), Origin::saying("two"), Refusing::new());
    let config = sections.iter().find(|s| s.is("config")).ok_or("no section: config")?;
    let config = config.text.replace("{origin}", &first.addr.to_string());
    let config = config.replace("{origin2}", &second.addr.to_string());
    let gateway = Gateway::start(config.replace("{refusing}", &refusing.addr.to_string()));

    let mut client: Option<Client> = None;
    let mut method = String::new();
    let mut asked = 0;
    for (nth, section) in sections.iter().enumerate() {
        let failed = |why: String| format!("section {} ({}): {why}", nth + 1, section.title);
        if section.is("config") {
        } else if section.is("origin answers") {
            let then = ["closes", "resets"].into_iter().find(|t| section.has(&format!("then {t}"))).unwrap_or_default();
            script.change(|script| script.push_back((section.bytes(), then)));
        } else if section.is("request") {
            if section.has("new connection") {
                client = None;
            }
            method = section.text.split(' ').next().unwrap_or_default().to_owned();
            client.get_or_insert_with(|| Client::tcp(gateway.http())).send(section.bytes());
        } else if section.is("origin sees") {
            asked += 1;
            let seen = first.wait(asked).swap_remove(asked - 1);
            differs(&section.text, &seen.head, &seen.body).map_or(Ok(()), |why| Err(failed(why)))?;
        } else if section.is("origin sees nothing") {
            let seen = first.seen();
            if seen.len() > asked {
                return Err(failed(format!("it saw {:?}", seen[asked].head.raw)));
            }
        } else if section.is("response") {
            let client = client.as_mut().ok_or("a response before a request")?;
            let response = client.response(&method).map_err(|e| failed(e.to_string()))?;
            differs(&section.text, &response.head, &response.body).map_or(Ok(()), |why| Err(failed(why)))?;
        } else if section.is("closed") {
            let rest = client.take().ok_or("closed before a request")?.rest().unwrap_or_default();
            if !rest.is_empty() {
                return Err(failed(format!("more came: {:?}", String::from_utf8_lossy(&rest))));
            }
        } else if section.is("log") {
            let part: Value = serde_json::from_str(&section.text).map_err(|e| failed(e.to_string()))?;
            gateway.record(&section.text, |record| contains(record, &part));
        } else {
            return Err(failed("an unknown section".into()));
        }
    }
    Ok(())
}

#[test]
fn every_file_tells_the_truth() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).expect("the directory").map(|f| f.expect("a file").path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let queue = Watched::new(VecDeque::from(files));
    let run = || {
        let mut failures = Vec::new();
        while let Some(path) = queue.change(VecDeque::pop_front) {
            let outcome = std::panic::catch_unwind(|| play(&path)).unwrap_or_else(|_| Err("a panic, see above".into()));
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            failures.extend(outcome.err().map(|why| format!("{name}: {why}")));
        }
        failures
    };
    let failures: Vec<String> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        runs.into_iter().flat_map(|r| r.join().expect("caught")).collect()
    });
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}
