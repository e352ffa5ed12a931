//! The tests as written: requests to send, expectations to check.

use std::path::{Path, PathBuf};

use regex::Regex;

use super::http::{self, Request};
use super::yaml::{self, Node};

#[derive(Debug, Clone)]
pub struct Test {
    pub rule: u64,
    pub number: u32,
    pub stages: Vec<Stage>,
}

#[derive(Debug, Clone)]
pub struct Stage {
    method: String,
    target: String,
    version: String,
    headers: Vec<(String, String)>,
    data: Option<String>,
    /// The whole request, base64.
    encoded: Option<Vec<u8>>,
    complete_headers: bool,
    expect: Expect,
}

#[derive(Debug, Clone, Default)]
struct Expect {
    status: Option<u16>,
    ids: Vec<u64>,
    no_ids: Vec<u64>,
    matches: Option<String>,
    no_match: Option<String>,
    error: bool,
}

impl Test {
    pub fn name(&self) -> String {
        format!("{}-{}", self.rule, self.number)
    }
}

/// All tests below a directory, in the order of their paths.
pub fn load(folder: &Path) -> Result<Vec<Test>, String> {
    let mut paths = Vec::new();
    walk(folder, &mut paths).map_err(|e| format!("{}: {e}", folder.display()))?;
    paths.sort();
    let mut tests = Vec::new();
    for path in paths {
        let node = yaml::read(&path)?;
        let rule = node.get("rule_id").and_then(Node::text).and_then(|t| t.parse().ok());
        let Some(rule) = rule else { continue };
        for (n, test) in node.get("tests").map(Node::list).unwrap_or_default().iter().enumerate() {
            let number = test.get("test_id").and_then(Node::text).and_then(|t| t.parse().ok()).unwrap_or(n as u32 + 1);
            let stages = test.get("stages").map(Node::list).unwrap_or_default();
            let stages = stages.iter().map(stage).collect::<Result<_, _>>();
            let stages = stages.map_err(|e| format!("{}: test {number}: {e}", path.display()))?;
            tests.push(Test { rule, number, stages });
        }
    }
    Ok(tests)
}

fn walk(folder: &Path, out: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, out)?;
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            out.push(path);
        }
    }
    Ok(())
}

fn stage(node: &Node) -> Result<Stage, String> {
    let input = node.get("input").ok_or("found no input")?;
    let output = node.get("output").ok_or("found no output")?;
    let text = |key: &str| input.get(key).and_then(Node::text).map(str::to_owned);
    let flag = |node: Option<&Node>| node.and_then(Node::text) == Some("true");
    let headers = match input.get("headers") {
        Some(Node::Map(map)) => map.iter().map(|(k, v)| (k.clone(), v.text().unwrap_or_default().to_owned())).collect(),
        _ => Vec::new(),
    };
    let log = output.get("log");
    let ids = |key: &str| -> Vec<u64> {
        let list = log.and_then(|l| l.get(key)).map(Node::list).unwrap_or_default();
        list.iter().filter_map(|n| n.text()?.parse().ok()).collect()
    };
    let pattern = |key: &str| log.and_then(|l| l.get(key)).and_then(Node::text).map(str::to_owned);
    let encoded = text("encoded_request").map(|t| {
        let mut out = Vec::new();
        crate::Transform::Base64Decode.apply(t.as_bytes(), &mut out);
        out
    });
    Ok(Stage {
        method: text("method").unwrap_or_else(|| "GET".into()),
        target: text("uri").unwrap_or_else(|| "/".into()),
        version: text("version")
            .unwrap_or_else(|| if input.get("version").is_some() { "".into() } else { "HTTP/1.1".into() }),
        headers,
        data: text("data").map(|d| template(&d)),
        encoded,
        complete_headers: input.get("autocomplete_headers").and_then(Node::text) != Some("false"),
        expect: Expect {
            status: output.get("status").and_then(Node::text).and_then(|t| t.parse().ok()),
            ids: ids("expect_ids"),
            no_ids: ids("no_expect_ids"),
            matches: pattern("match_regex"),
            no_match: pattern("no_match_regex"),
            error: flag(output.get("expect_error")),
        },
    })
}

/// `{{ "1" | repeat 152 }}`: the only template that the tests use.
fn template(text: &str) -> String {
    let Some((before, rest)) = text.split_once("{{") else { return text.to_owned() };
    let Some((inner, after)) = rest.split_once("}}") else { return text.to_owned() };
    let parsed = inner.split_once('|').and_then(|(what, how)| {
        let times: usize = how.trim().strip_prefix("repeat")?.trim().parse().ok()?;
        Some(what.trim().trim_matches('"').repeat(times))
    });
    match parsed {
        Some(expanded) => format!("{before}{expanded}{}", template(after)),
        None => text.to_owned(),
    }
}

impl Stage {
    /// The request as a server would read it, or the status with which it would refuse it.
    pub fn request(&self) -> Result<Request, u16> {
        http::read(&self.bytes())
    }

    /// The request as it goes over the wire.
    fn bytes(&self) -> Vec<u8> {
        if let Some(encoded) = &self.encoded {
            return encoded.clone();
        }
        let mut headers = self.headers.clone();
        let data = self.data.clone().unwrap_or_default().into_bytes();
        if self.complete_headers {
            complete(&mut headers, &self.method, self.data.is_some(), &data);
        }
        let mut out = self.method.clone().into_bytes();
        out.extend_from_slice(format!(" {}", self.target).as_bytes());
        if !self.version.is_empty() {
            out.extend_from_slice(format!(" {}", self.version).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        for (name, value) in &headers {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&data);
        out
    }

    pub fn check(&self, status: u16, log: &str) -> Result<(), String> {
        let e = &self.expect;
        let seen = |id: u64| log.contains(&format!("[id \"{id}\"]"));
        let found = |pattern: &str| Regex::new(pattern).map(|r| r.is_match(log)).map_err(|e| e.to_string());
        if e.error {
            // The connection ends without a response that a client could read.
            return Ok(());
        }
        if let Some(expected) = e.status
            && expected != status
        {
            return Err(format!("found status {status}, expected {expected}"));
        }
        // A test may name a status as another way to pass.
        if e.status.is_some() && status >= 400 {
            return Ok(());
        }
        if let Some(id) = e.ids.iter().find(|id| !seen(**id)) {
            return Err(format!("rule {id} did not match"));
        }
        if let Some(id) = e.no_ids.iter().find(|id| seen(**id)) {
            return Err(format!("rule {id} matched"));
        }
        if let Some(pattern) = &e.matches
            && !found(pattern)?
        {
            return Err(format!("the log does not match {pattern:?}"));
        }
        if let Some(pattern) = &e.no_match
            && found(pattern)?
        {
            let ids: Vec<&str> = log.lines().filter_map(|l| l.split("[id \"").nth(1)?.split('"').next()).collect();
            return Err(format!("the log matches {pattern:?}: {ids:?}"));
        }
        Ok(())
    }
}

/// What the suite's client adds to a request: a type and a length for a body, and the wish to close.
fn complete(headers: &mut Vec<(String, String)>, method: &str, has_data: bool, data: &[u8]) {
    let has = |headers: &[(String, String)], name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if has_data && !has(headers, "content-type") {
        headers.push(("Content-Type".into(), "application/x-www-form-urlencoded".into()));
    }
    let carries = ["POST", "PUT", "PATCH", "DELETE"].contains(&method);
    if (has_data || carries) && !has(headers, "content-length") && !has(headers, "transfer-encoding") {
        headers.push(("Content-Length".into(), data.len().to_string()));
    }
    if !has(headers, "connection") {
        headers.push(("Connection".into(), "close".into()));
    }
}
