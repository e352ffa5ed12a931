//! The real binary: started with a file of its own on ports of the kernel's choice, and ended with the test.

use super::client::Client;
use super::{Dir, PATIENCE, Watched, eventually};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

pub const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

pub struct Gateway {
    pub dir: Dir,
    pub file: PathBuf,
    child: Child,
    out: Watched<Vec<String>>,
    err: Watched<Vec<String>>,
    ports: BTreeMap<String, SocketAddr>,
}

/// Runs the binary to its end.
pub fn run(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).output().expect("the binary runs")
}

/// The configuration of a test: what every test needs and this one does not say itself.
fn complete(config: &str, dir: &Dir) -> String {
    let mut text = config.to_owned();
    let mut add = |table: &str, lines: String| {
        if !config.lines().any(|line| line.trim_start().starts_with(table)) {
            text.push_str(&lines);
        }
    };
    add("[listen.", "\n[listen.http]\naddr = \"127.0.0.1:0\"\n".into());
    add("[admin]", format!("\n[admin]\naddr = \"unix:{}\"\n", dir.path().join("admin.sock").display()));
    add("[server]", "\n[server]\nthreads = 2\n".into());
    text
}

fn lines(from: impl Read + Send + 'static) -> Watched<Vec<String>> {
    let lines = Watched::new(Vec::new());
    let own = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            own.change(|lines| lines.push(String::from_utf8_lossy(&line).into_owned()));
        }
    });
    lines
}

impl Gateway {
    /// Starts the gateway and waits until it serves.
    #[track_caller]
    pub fn start(config: impl AsRef<str>) -> Gateway {
        Gateway::start_in(Dir::new(), config)
    }

    #[track_caller]
    pub fn start_in(dir: Dir, config: impl AsRef<str>) -> Gateway {
        let file = dir.write("portcullis.toml", complete(config.as_ref(), &dir));
        let mut command = Command::new(BINARY);
        command.arg("run").arg("-c").arg(&file);
        Gateway::spawn(dir, file, command)
    }

    #[track_caller]
    pub fn spawn(dir: Dir, file: PathBuf, mut command: Command) -> Gateway {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let (out, err) = (lines(child.stdout.take().expect("piped")), lines(child.stderr.take().expect("piped")));
        let mut gateway = Gateway { dir, file, child, out, err, ports: BTreeMap::new() };
        eventually("readiness", || {
            if let Ok(Some(status)) = gateway.child.try_wait() {
                panic!("the gateway ended ({status}): {}", gateway.errors());
            }
            (gateway.admin("GET", "/readyz")?.status == 200).then_some(())
        });
        gateway.learn_ports();
        gateway
    }

    fn learn_ports(&mut self) {
        let config = self.admin("GET", "/config").expect("the admin endpoint").json();
        let listeners = config["listeners"].as_array().cloned().unwrap_or_default();
        self.ports = listeners
            .iter()
            .filter_map(|l| Some((l["name"].as_str()?.to_owned(), l["addr"].as_str()?.parse().ok()?)))
            .collect();
    }

    /// Where the listener `http` is bound.
    #[track_caller]
    pub fn http(&self) -> SocketAddr {
        self.at("http")
    }
    #[track_caller]
    pub fn at(&self, listener: &str) -> SocketAddr {
        *self.ports.get(listener).unwrap_or_else(|| panic!("no listener {listener}: {:?}", self.ports))
    }

    /// Asks the admin endpoint, where it is the test's own socket.
    pub fn admin(&self, method: &str, path: &str) -> Option<super::Response> {
        let mut client = Client::unix(&self.dir.path().join("admin.sock")).ok()?;
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}\r\n");
        client.try_ask(request).ok()
    }

    /// The value of a series, by its whole name as printed; 0 when it is not there.
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.metrics();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |v| v.parse().expect("a number"))
    }
    pub fn metrics(&self) -> String {
        self.admin("GET", "/metrics").expect("metrics").text().to_owned()
    }

    /// The access log's records so far.
    pub fn records(&self) -> Vec<Value> {
        self.out.change(|lines| lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Waits for a record that fits.
    #[track_caller]
    pub fn record(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let found = self
            .out
            .until(|lines| lines.iter().filter_map(|line| serde_json::from_str(line).ok()).find(|record| fits(record)));
        found.unwrap_or_else(|| panic!("no record of {what}; the log: {:#?}", self.records()))
    }

    /// Waits for a line on standard error.
    #[track_caller]
    pub fn complaint(&self, part: &str) -> String {
        let found = self.err.until(|lines| lines.iter().find(|line| line.contains(part)).cloned());
        found.unwrap_or_else(|| panic!("nothing about {part:?} in: {}", self.errors()))
    }
    pub fn errors(&self) -> String {
        self.err.change(|lines| lines.join("\n"))
    }

    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: a plain system call; the child is ours and has not been waited for, so the id is still its own.
        unsafe { libc::kill(pid, signal) };
    }

    /// Replaces the file.
    pub fn rewrite(&self, config: impl AsRef<str>) {
        std::fs::write(&self.file, complete(config.as_ref(), &self.dir)).expect("the file is written");
    }

    /// Replaces the file, reloads by SIGHUP and waits until that was tried.
    #[track_caller]
    pub fn reload(&mut self, config: impl AsRef<str>) {
        self.rewrite(config);
        let tried = |gateway: &Gateway| {
            ["ok", "rejected"]
                .map(|r| gateway.metric(&format!("portcullis_reloads_total{{result=\"{r}\"}}")))
                .iter()
                .sum()
        };
        let before: f64 = tried(self);
        self.signal(libc::SIGHUP);
        eventually("the reload", || (tried(self) > before).then_some(()));
        self.learn_ports();
    }

    /// Waits for the end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the end of the gateway", || self.child.try_wait().expect("a child of ours"))
    }

    /// Asks it to end and waits.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// The most memory it ever used, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process of ours");
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("a high-water mark");
        line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
    }

    /// Starts counting the most memory anew.
    pub fn reset_peak(&self) {
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("-- the gateway said:\n{}", self.errors());
        }
    }
}

const _: () = assert!(PATIENCE.as_secs() >= 10);
