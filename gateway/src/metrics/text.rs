//! The text format of Prometheus, version 0.0.4: families of samples.

use std::fmt::Display;
use std::io::Write;

/// Writes families, one after the other.
pub(super) struct Exposition<'o> {
    out: &'o mut Vec<u8>,
    family: &'static str,
}

impl<'o> Exposition<'o> {
    pub(super) fn new(out: &'o mut Vec<u8>) -> Exposition<'o> {
        Exposition { out, family: "" }
    }

    /// Begins a family: the samples that follow are its own.
    pub(super) fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.family = name;
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// One sample; `suffix` is for the parts of a histogram.
    pub(super) fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.out.extend_from_slice(self.family.as_bytes());
        self.out.extend_from_slice(suffix.as_bytes());
        let mut before = b'{';
        for (name, text) in labels {
            self.out.push(before);
            self.out.extend_from_slice(name.as_bytes());
            self.out.extend_from_slice(b"=\"");
            self.label(text);
            self.out.push(b'"');
            before = b',';
        }
        if !labels.is_empty() {
            self.out.push(b'}');
        }
        self.put(format_args!(" {value}\n"));
    }

    fn label(&mut self, text: &str) {
        for &b in text.as_bytes() {
            match b {
                b'"' | b'\\' => self.out.extend_from_slice(&[b'\\', b]),
                b'\n' => self.out.extend_from_slice(b"\\n"),
                _ => self.out.push(b),
            }
        }
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.out.write_fmt(text).expect("a Vec takes everything");
    }
}
