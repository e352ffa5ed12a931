//! JSON (RFC 8259) to arguments: `{"a":{"b":[1]}}` is `json.a.b=` and `json.a.b.0=1`. Duplicate keys are kept, all of them, because parsers
//! disagree on which one counts; depth and number of values are bounded.
//!
//! Keys are looked at as names and values as values; numbers and literals keep their text.

use crate::link::Options;
use crate::store::{Fields, Span, Store};

const PREFIX: &[u8] = b"json";

pub fn parse(body: &[u8], options: &Options, store: &mut Store) -> Result<(), String> {
    let mut reader =
        Reader { text: body, at: 0, path: PREFIX.to_vec(), depth: 0, depth_limit: options.json_depth, store, room: 0 };
    reader.room = options.arguments_limit.saturating_sub(reader.store.args());
    if body.starts_with(b"\xef\xbb\xbf") {
        reader.at = 3;
    }
    reader.blank();
    if reader.at == body.len() {
        return Ok(());
    }
    reader.value()?;
    reader.blank();
    if reader.at < body.len() {
        return Err(reader.wrong("the end"));
    }
    Ok(())
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    /// The name of the value being read.
    path: Vec<u8>,
    depth: usize,
    depth_limit: usize,
    store: &'a mut Store,
    room: usize,
}

impl Reader<'_> {
    fn wrong(&self, expected: &str) -> String {
        format!("json at byte {}: expected {expected}", self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Result<(), String> {
        self.blank();
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => {
                let value = self.string()?;
                self.add(value)
            }
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.wrong("a value")),
        }
    }

    /// Depth is bounded, so recursion is.
    fn nested(&mut self, read: fn(&mut Self) -> Result<(), String>) -> Result<(), String> {
        if self.depth >= self.depth_limit {
            return Err(format!("json at byte {}: nested deeper than {}", self.at, self.depth_limit));
        }
        self.depth += 1;
        self.at += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    fn object(&mut self) -> Result<(), String> {
        self.blank();
        if self.eat(b'}') {
            // No value will carry this name.
            return self.add(Span::default());
        }
        loop {
            self.blank();
            if self.peek() != Some(b'"') {
                return Err(self.wrong("a key"));
            }
            let key = self.string()?;
            self.blank();
            if !self.eat(b':') {
                return Err(self.wrong("a colon"));
            }
            let length = self.path.len();
            self.path.push(b'.');
            self.path.extend_from_slice(self.store.get(key));
            let result = self.value();
            self.path.truncate(length);
            result?;
            self.blank();
            if self.eat(b'}') {
                return Ok(());
            }
            if !self.eat(b',') {
                return Err(self.wrong("a comma or }"));
            }
        }
    }

    /// The list itself is a value, too: a rule that asks for the end of a name must see it without the index.
    fn array(&mut self) -> Result<(), String> {
        self.add(Span::default())?;
        self.blank();
        if self.eat(b']') {
            return Ok(());
        }
        for index in 0usize.. {
            let length = self.path.len();
            self.path.extend_from_slice(format!(".{index}").as_bytes());
            let result = self.value();
            self.path.truncate(length);
            result?;
            self.blank();
            if self.eat(b']') {
                break;
            }
            if !self.eat(b',') {
                return Err(self.wrong("a comma or ]"));
            }
        }
        Ok(())
    }

    fn eat(&mut self, b: u8) -> bool {
        let found = self.peek() == Some(b);
        self.at += usize::from(found);
        found
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), String> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.wrong("true, false or null"));
        }
        self.at += word.len();
        let value = self.store.push(if word == b"null" { b"" } else { word });
        self.add(value)
    }

    fn number(&mut self) -> Result<(), String> {
        let start = self.at;
        self.eat(b'-');
        let digits = |this: &mut Self| {
            let from = this.at;
            while matches!(this.peek(), Some(b'0'..=b'9')) {
                this.at += 1;
            }
            this.at > from
        };
        let leading_zero = self.peek() == Some(b'0');
        let from = self.at;
        if !digits(self) || (leading_zero && self.at > from + 1) {
            return Err(self.wrong("a number"));
        }
        if self.eat(b'.') && !digits(self) {
            return Err(self.wrong("digits"));
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if !digits(self) {
                return Err(self.wrong("digits"));
            }
        }
        let value = self.store.push(&self.text[start..self.at]);
        self.add(value)
    }

    /// A string without its quotes, escapes undone, in the store.
    fn string(&mut self) -> Result<Span, String> {
        let text = self.text;
        let mut at = self.at + 1;
        let (span, result) = self.store.push_with(|out| -> Result<(), &'static str> {
            loop {
                let run = text[at..].iter().position(|b| matches!(b, b'"' | b'\\') || *b < 0x20);
                let Some(run) = run else { return Err("a closing quote") };
                out.extend_from_slice(&text[at..at + run]);
                at += run;
                match text[at] {
                    b'"' => return Ok(()),
                    b'\\' => at += escape(&text[at + 1..], out).ok_or("an escape")? + 1,
                    _ => return Err("no control character in a string"),
                }
            }
        });
        self.at = at;
        result.map_err(|expected| self.wrong(expected))?;
        self.at += 1;
        if std::str::from_utf8(self.store.get(span)).is_err() {
            return Err(self.wrong("UTF-8"));
        }
        Ok(span)
    }

    fn add(&mut self, value: Span) -> Result<(), String> {
        if self.room == 0 {
            return Err("json: more values than the limit".to_owned());
        }
        self.room -= 1;
        let key = self.store.push(&self.path);
        self.store.add(Fields::ArgsPost, key, value);
        Ok(())
    }
}

/// What follows a backslash; how many bytes it took.
fn escape(rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let simple = match rest.first()? {
        b'"' => b'"',
        b'\\' => b'\\',
        b'/' => b'/',
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'u' => {
            let first = unit(&rest[1..])?;
            let (code, used) = match first {
                0xd800..=0xdbff if rest.get(5..7) == Some(b"\\u") => match unit(&rest[7..])? {
                    low @ 0xdc00..=0xdfff => (0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00), 11),
                    _ => (0xfffd, 5),
                },
                code => (code, 5),
            };
            let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(used);
        }
        _ => return None,
    };
    out.push(simple);
    Some(1)
}

fn unit(digits: &[u8]) -> Option<u32> {
    let four = digits.get(..4)?;
    if !four.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(four).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<String>, Option<String>) {
        let mut store = Store::default();
        let error = parse(text.as_bytes(), &Options::default(), &mut store).err();
        let show = |s| String::from_utf8_lossy(store.get(s)).into_owned();
        (store.fields(Fields::ArgsPost).iter().map(|f| format!("{}={}", show(f.key), show(f.value))).collect(), error)
    }

    #[test]
    fn values_have_paths() {
        let (args, error) = read(r#"{"a":{"b":[1,"x\u0041\n",null]},"a":true,"":-1.5e3}"#);
        assert_eq!(
            args,
            ["json.a.b=", "json.a.b.0=1", "json.a.b.1=xA\n", "json.a.b.2=", "json.a=true", "json.=-1.5e3"]
        );
        assert_eq!(error, None);
        assert_eq!(read(r#"{"a":{},"b":[]}"#).0, ["json.a=", "json.b="]);
        assert_eq!(read("\"\\ud83d\\ude00\"").0, ["json=😀"]);
    }

    #[test]
    fn errors_keep_what_was_read() {
        let (args, error) = read(r#"{"a":"<script>","b":"#);
        assert_eq!(args, ["json.a=<script>"]);
        assert_eq!(error.unwrap(), "json at byte 20: expected a value");
        assert!(read("{\"a\":1}x").1.is_some());
        assert!(read("[01]").1.is_some());
        assert!(read("\"a\u{1}b\"").1.is_some());
    }

    #[test]
    fn depth_and_number_are_bounded() {
        assert!(read(&"[".repeat(100_000)).1.unwrap().contains("nested deeper than 32"));
        let many = format!("[{}1]", "1,".repeat(5_000));
        let (args, error) = read(&many);
        assert_eq!(args.len(), 1000);
        assert!(error.unwrap().contains("more values than the limit"));
    }
}
