//! The process's own messages, and Pingora's, on standard error. Through the same escaping and the same kind of writer
//! as the access log: a full pipe costs messages, never traffic.
//!
//! Pingora reports every failed handshake and every aborted request as an error. Below `debug` its messages are
//! written only from level error, and of those few each second; how many were left out is told with the next one.

use super::queue::Queue;
use super::sink::Sink;
use super::text::{escape_capped, time};
use super::{Format, Level};
use crate::clock;
use log::{LevelFilter, Log, Metadata, Record};
use prometheus::IntCounter;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The most messages in one second: of ours, and of the libraries together.
const OURS: u64 = 200;
const THEIRS: u64 = 10;
/// The longest message that is written, in bytes.
const LONGEST: usize = 8192;

static PROCESS: OnceLock<Process> = OnceLock::new();

struct Process {
    queue: Queue,
    /// Standard error is the journal: it adds the time, and takes the level as a prefix.
    journal: bool,
    json: AtomicBool,
    /// `log::Level` of the libraries, as a number.
    theirs: AtomicU8,
    began: Instant,
    us: Window,
    them: Window,
}

/// Starts writing; once per process, later calls only change level and form.
pub fn start(level: Level, format: Format) -> io::Result<()> {
    if PROCESS.get().is_none() {
        let dropped = IntCounter::new("process_log_dropped", "messages lost").expect("a valid name");
        let process = Process {
            queue: Queue::start("", Sink::stderr()?, 1, Duration::ZERO, dropped)?,
            journal: stderr_is_journal(),
            json: AtomicBool::new(false),
            theirs: AtomicU8::new(0),
            began: Instant::now(),
            us: Window::default(),
            them: Window::default(),
        };
        // Lost a race to another caller, or to a logger of a test: then that one stays.
        if PROCESS.set(process).is_ok() {
            let _ = log::set_logger(PROCESS.get().expect("set above"));
        }
    }
    set(level, format);
    Ok(())
}

/// Changes level and form, as a reload may.
pub fn set(level: Level, format: Format) {
    let Some(process) = PROCESS.get() else { return };
    let (ours, theirs) = match level {
        Level::Error => (LevelFilter::Error, LevelFilter::Error),
        Level::Warn => (LevelFilter::Warn, LevelFilter::Error),
        Level::Info => (LevelFilter::Info, LevelFilter::Error),
        Level::Debug => (LevelFilter::Debug, LevelFilter::Info),
    };
    process.json.store(format == Format::Json, Relaxed);
    process.theirs.store(theirs as u8, Relaxed);
    log::set_max_level(ours);
}

/// Writes what is left, before the process ends; false if that took longer than `patience`.
pub fn close(patience: Duration) -> bool {
    PROCESS.get().is_none_or(|p| p.queue.close(patience))
}

impl Log for Process {
    fn enabled(&self, meta: &Metadata<'_>) -> bool {
        ours(meta.target()) || meta.level() as u8 <= self.theirs.load(Relaxed)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (window, most) = if ours(record.target()) { (&self.us, OURS) } else { (&self.them, THEIRS) };
        let Some(left_out) = window.admit(self.began.elapsed().as_secs(), most) else { return };
        if left_out > 0 {
            let whose = if ours(record.target()) { "portcullis" } else { "the libraries" };
            self.line(
                log::Level::Warn,
                "portcullis::log",
                format_args!("{left_out} messages of {whose} were left out"),
            );
        }
        self.line(record.level(), record.target(), *record.args());
    }

    /// Nothing to do: the writer does not linger, and `close` waits for it.
    fn flush(&self) {}
}

impl Process {
    fn line(&self, level: log::Level, target: &str, message: std::fmt::Arguments<'_>) {
        let mut raw = String::new();
        let _ = write!(raw, "{message}"); // a Display that fails has said what it could
        let wall = clock::wall();
        let json = self.json.load(Relaxed);
        self.queue.put(|out| {
            if self.journal {
                out.extend_from_slice(priority(level));
            }
            if json {
                json_line(out, wall, level, target, &raw)
            } else {
                self.text_line(out, wall, level, target, &raw)
            }
            out.push(b'\n');
        });
    }

    fn text_line(&self, out: &mut Vec<u8>, wall: u64, level: log::Level, target: &str, message: &str) {
        if !self.journal {
            time(out, wall);
            out.push(b' ');
        }
        out.extend_from_slice(level.as_str().as_bytes());
        out.push(b' ');
        escape_capped(out, target.as_bytes(), LONGEST);
        out.extend_from_slice(b": ");
        escape_capped(out, message.as_bytes(), LONGEST);
    }
}

/// systemd.exec(5): `JOURNAL_STREAM` names device and inode, since a child's standard error may be another.
fn stderr_is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let here = io::stderr().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    here.is_ok_and(|meta| named == format!("{}:{}", meta.dev(), meta.ino()))
}

fn json_line(out: &mut Vec<u8>, wall: u64, level: log::Level, target: &str, message: &str) {
    out.extend_from_slice(b"{\"time\":\"");
    time(out, wall);
    for (key, value) in
        [("\",\"level\":\"", level.as_str()), ("\",\"target\":\"", target), ("\",\"message\":\"", message)]
    {
        out.extend_from_slice(key.as_bytes());
        escape_capped(out, value.as_bytes(), LONGEST);
    }
    out.extend_from_slice(b"\"}");
}

fn ours(target: &str) -> bool {
    target.starts_with("portcullis") || target.starts_with("filters") || target.starts_with("seclang")
}

/// sd-daemon(3): a line's priority, for the journal.
fn priority(level: log::Level) -> &'static [u8] {
    match level {
        log::Level::Error => b"<3>",
        log::Level::Warn => b"<4>",
        log::Level::Info => b"<6>",
        _ => b"<7>",
    }
}

/// So many in one second. Two threads at the turn of a second may let a few more through.
#[derive(Default)]
struct Window {
    second: AtomicU64,
    count: AtomicU64,
    left_out: AtomicU64,
}

impl Window {
    /// `None`: too many. Else how many were left out since the last that was admitted.
    fn admit(&self, second: u64, most: u64) -> Option<u64> {
        if self.second.swap(second, Relaxed) != second {
            self.count.store(0, Relaxed);
        }
        if self.count.fetch_add(1, Relaxed) < most {
            return Some(self.left_out.swap(0, Relaxed));
        }
        self.left_out.fetch_add(1, Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let window = Window::default();
        let admitted = (0..100).filter(|_| window.admit(5, 10).is_some()).count();
        assert_eq!(admitted, 10);
        assert_eq!(window.admit(6, 10), Some(90));
        assert_eq!(window.admit(6, 10), Some(0));
    }

    #[test]
    fn a_message_is_one_line() {
        let mut out = vec![];
        json_line(&mut out, 0, log::Level::Warn, "pingora_core", "two\nlines \"and\" \x1b[31m");
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["message"], "two\nlines \"and\" \x1b[31m");
        assert_eq!(value["level"], "WARN");
        assert!(!out.contains(&b'\n') && !out.contains(&0x1b));
    }
}
