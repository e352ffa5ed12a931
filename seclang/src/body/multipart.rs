//! `multipart/form-data` (RFC 7578), read strictly: what other parsers might read otherwise is an error that rules can see
//! (`MULTIPART_STRICT_ERROR`), because a difference between two parsers is a way around one of them.
//!
//! The raw header lines of every part are kept for rules (`MULTIPART_PART_HEADERS`).

use crate::link::Options;
use crate::store::{Fields, Store};
use crate::vars::Var;

/// Headers of one part, all together, in bytes.
const HEADER_LIMIT: usize = 16 << 10;
/// RFC 2046, section 5.1.1.
const BOUNDARY_LIMIT: usize = 70;

pub fn parse(body: &[u8], cut: bool, options: &Options, store: &mut Store) -> Result<(), String> {
    let content_type = store.header(b"content-type").unwrap_or_default().to_vec();
    let mut reader = Reader { strict: None, store, options };
    let result = boundary(&content_type).and_then(|(boundary, doubt)| {
        if let Some(doubt) = doubt {
            reader.doubt(doubt);
        }
        reader.parts(body, &boundary, cut)
    });
    let strict = reader.strict;
    if strict.is_some() || result.is_err() {
        store.set(Var::MultipartStrictError, b"1");
    }
    match (result, strict) {
        (Err(reason), _) => Err(format!("Multipart parsing error: Multipart: {reason}")),
        (Ok(()), Some(reason)) if reason == INVALID_HEADER => {
            Err(format!("Multipart parsing error: Multipart: {reason}"))
        }
        _ => Ok(()),
    }
}

const INVALID_HEADER: &str = "Invalid part header (contains invalid character)";

/// The boundary of a content type, and what is doubtful about it.
fn boundary(content_type: &[u8]) -> Result<(Vec<u8>, Option<&'static str>), String> {
    let mut found = None;
    let mut doubt = None;
    for parameter in parameters(content_type) {
        let (name, value, quoted) = parameter?;
        if !name.eq_ignore_ascii_case(b"boundary") {
            continue;
        }
        if found.is_some() {
            return Err("Multiple boundary parameters in C-T".to_owned());
        }
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(b) || (quoted && *b == b' ');
        if value.is_empty() || value.len() > BOUNDARY_LIMIT {
            return Err("Invalid boundary in C-T (length)".to_owned());
        }
        if !value.iter().all(allowed) {
            doubt = Some("Invalid boundary in C-T (characters)");
        }
        found = Some(value);
    }
    Ok((found.ok_or("Boundary not found in C-T")?, doubt))
}

type Parameter = (Vec<u8>, Vec<u8>, bool);

/// `; name=value; name="value"`, after the first word.
fn parameters(header: &[u8]) -> impl Iterator<Item = Result<Parameter, String>> + '_ {
    let mut rest = match memchr::memchr(b';', header) {
        Some(at) => &header[at..],
        None => &b""[..],
    };
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_ascii_start();
            rest = match rest {
                [b';', tail @ ..] => tail,
                [] => return None,
                other => {
                    let _ = other;
                    rest = b"";
                    return Some(Err("Invalid parameter".to_owned()));
                }
            };
            rest = rest.trim_ascii_start();
            if rest.is_empty() || rest[0] == b';' {
                continue;
            }
            let end = rest.iter().position(|b| matches!(b, b'=' | b';')).unwrap_or(rest.len());
            let name = rest[..end].trim_ascii_end().to_vec();
            if rest.get(end) != Some(&b'=') {
                rest = &rest[end..];
                return Some(Ok((name, Vec::new(), false)));
            }
            let value = rest[end + 1..].trim_ascii_start();
            return Some(match value.first() {
                Some(b'"') => match quoted(&value[1..]) {
                    Some((text, after)) => {
                        rest = after;
                        Ok((name, text, true))
                    }
                    None => {
                        rest = b"";
                        Err("Invalid quoting".to_owned())
                    }
                },
                _ => {
                    let end = memchr::memchr(b';', value).unwrap_or(value.len());
                    rest = &value[end..];
                    Ok((name, value[..end].trim_ascii_end().to_vec(), false))
                }
            });
        }
    })
}

/// The text of a quoted string and what follows it. A backslash escapes a quote or itself and nothing else: a Windows path
/// in a file name is not an escape.
fn quoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut out = Vec::new();
    let mut i = 0;
    while let Some(&b) = text.get(i) {
        match (b, text.get(i + 1)) {
            (b'"', _) => return Some((out, &text[i + 1..])),
            (b'\\', Some(&next @ (b'"' | b'\\'))) => {
                out.push(next);
                i += 1;
            }
            _ => out.push(b),
        }
        i += 1;
    }
    None
}

struct Reader<'s> {
    /// The first thing that was not as it must be.
    strict: Option<&'static str>,
    store: &'s mut Store,
    options: &'s Options,
}

impl Reader<'_> {
    fn doubt(&mut self, reason: &'static str) {
        self.strict.get_or_insert(reason);
    }

    fn parts(&mut self, body: &[u8], boundary: &[u8], cut: bool) -> Result<(), String> {
        let delimiter = [b"--", boundary].concat();
        let Some(first) = next_delimiter(body, 0, &delimiter) else {
            return Err("Boundary never seen".to_owned());
        };
        if first.start > 0 {
            self.doubt("Data before the first boundary");
        }
        let mut at = first;
        loop {
            match self.after_delimiter(body, at.end) {
                After::Final(end) => {
                    if !body[end..].iter().all(u8::is_ascii_whitespace) {
                        self.doubt("Data after the final boundary");
                    }
                    return Ok(());
                }
                After::Part(start) => match next_delimiter(body, start, &delimiter) {
                    Some(next) => {
                        let end = self.part_end(body, start, next.start);
                        self.part(&body[start..end])?;
                        at = next;
                    }
                    None => {
                        self.part(&body[start..])?;
                        return match cut {
                            true => Ok(()),
                            false => Err("Final boundary missing".to_owned()),
                        };
                    }
                },
            }
        }
    }

    fn after_delimiter(&mut self, body: &[u8], at: usize) -> After {
        let rest = &body[at..];
        if rest.starts_with(b"--") {
            return After::Final(at + 2);
        }
        let blanks = rest.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        match &rest[blanks..] {
            [b'\r', b'\n', ..] => After::Part(at + blanks + 2),
            [b'\n', ..] => {
                self.doubt("Line ends without CR");
                After::Part(at + blanks + 1)
            }
            _ => {
                self.doubt("Text after a boundary");
                let line = memchr::memchr(b'\n', rest).map_or(rest.len(), |i| i + 1);
                After::Part(at + line)
            }
        }
    }

    /// The line break before a delimiter belongs to the delimiter.
    fn part_end(&mut self, body: &[u8], start: usize, delimiter: usize) -> usize {
        if delimiter >= start + 2 && body[..delimiter].ends_with(b"\r\n") {
            return delimiter - 2;
        }
        self.doubt("Line ends without CR");
        delimiter.saturating_sub(1).max(start)
    }

    fn part(&mut self, part: &[u8]) -> Result<(), String> {
        let mut name = None;
        let mut filename = None;
        let mut headers = Vec::new();
        let mut at = 0;
        loop {
            let Some(end) = memchr::memchr(b'\n', &part[at..]).map(|i| at + i) else {
                return Err("Part headers do not end".to_owned());
            };
            let line = &part[at..end];
            let line = match line.strip_suffix(b"\r") {
                Some(line) => line,
                None => {
                    self.doubt("Line ends without CR");
                    line
                }
            };
            at = end + 1;
            if at > HEADER_LIMIT {
                return Err("Part headers too large".to_owned());
            }
            if line.is_empty() {
                break;
            }
            if matches!(line[0], b' ' | b'\t') && !headers.is_empty() {
                self.doubt("Folded part header");
            }
            headers.push(line);
        }
        for line in &headers {
            if self.header(line) {
                (name, filename) = self.disposition(line)?;
            }
        }
        let key = self.store.push(name.as_deref().unwrap_or_default());
        for line in &headers {
            let value = self.store.push(line);
            self.store.add(Fields::PartHeaders, key, value);
        }
        if name.is_none() {
            return Err("Part header missing Content-Disposition name".to_owned());
        }
        self.store.add(Fields::MultipartNames, key, key);
        let content = &part[at..];
        match filename {
            Some(filename) => {
                let value = self.store.push(&filename);
                self.store.add(Fields::Files, key, value);
                self.store.add_file_size(key, content.len());
            }
            None if self.store.args() >= self.options.arguments_limit => {
                return Err("more arguments than the limit".to_owned());
            }
            None => {
                let value = self.store.push(content);
                self.store.add(Fields::ArgsPost, key, value);
            }
        }
        Ok(())
    }

    /// Whether this is the Content-Disposition. RFC 9110, section 5.1: a header name is a token.
    fn header(&mut self, line: &[u8]) -> bool {
        let Some(colon) = memchr::memchr(b':', line) else {
            self.doubt("Invalid part header (colon missing)");
            return false;
        };
        let name = &line[..colon];
        if name.is_empty() || !name.iter().all(|b| (0x21..0x7f).contains(b)) || line.contains(&0) {
            self.doubt(INVALID_HEADER);
        }
        name.trim_ascii().eq_ignore_ascii_case(b"content-disposition")
    }

    #[expect(clippy::type_complexity, reason = "name and file name, each may be missing")]
    fn disposition(&mut self, line: &[u8]) -> Result<(Option<Vec<u8>>, Option<Vec<u8>>), String> {
        let (mut name, mut filename) = (None, None);
        for parameter in parameters(line) {
            let (key, value, quoted) = match parameter {
                Ok(found) => found,
                Err(_) => {
                    self.doubt("Invalid Content-Disposition header");
                    // The rest of the line is looked at as a file name: quoting tricks live there.
                    filename.get_or_insert_with(|| line.to_vec());
                    continue;
                }
            };
            if !quoted {
                self.doubt("Content-Disposition parameter without quotes");
            }
            let slot = match key.to_ascii_lowercase().as_slice() {
                b"name" => &mut name,
                b"filename" => &mut filename,
                b"filename*" => {
                    self.doubt("Content-Disposition filename*");
                    &mut filename
                }
                _ => {
                    self.doubt("Unknown Content-Disposition parameter");
                    continue;
                }
            };
            if slot.replace(value).is_some() {
                self.doubt("Duplicate Content-Disposition parameter");
            }
        }
        Ok((name, filename))
    }
}

enum After {
    /// The body of a part begins here.
    Part(usize),
    /// That was the last delimiter.
    Final(usize),
}

/// The next delimiter at the start of a line.
fn next_delimiter(body: &[u8], from: usize, delimiter: &[u8]) -> Option<std::ops::Range<usize>> {
    memchr::memmem::find_iter(&body[from..], delimiter)
        .map(|i| from + i)
        .find(|&i| i == 0 || i == from || body[i - 1] == b'\n')
        .map(|i| i..i + delimiter.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Out {
        args: Vec<String>,
        files: Vec<String>,
        headers: Vec<String>,
        strict: bool,
        error: Option<String>,
    }

    fn read(content_type: &str, body: &str) -> Out {
        let mut store = Store::default();
        store.add_text(Fields::RequestHeaders, b"Content-Type", content_type.as_bytes());
        let error = parse(body.as_bytes(), false, &Options::default(), &mut store).err();
        let list = |which| {
            let show = |s| String::from_utf8_lossy(store.get(s)).into_owned();
            store.fields(which).iter().map(|f| format!("{}={}", show(f.key), show(f.value))).collect()
        };
        Out {
            args: list(Fields::ArgsPost),
            files: list(Fields::Files),
            headers: list(Fields::PartHeaders),
            strict: store.one(Var::MultipartStrictError).is_some(),
            error,
        }
    }

    const TYPE: &str = "multipart/form-data; boundary=XX";

    #[test]
    fn fields_and_files() {
        let out = read(
            TYPE,
            "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\none\r\ntwo\r\n\
             --XX\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x.txt\"\r\nContent-Type: text/plain\r\n\r\n\
             data\r\n--XX--\r\n",
        );
        assert_eq!(out.args, ["a=one\r\ntwo"]);
        assert_eq!(out.files, ["f=x.txt"]);
        assert_eq!(out.headers[2], "f=Content-Type: text/plain");
        assert!(!out.strict && out.error.is_none());
    }

    #[test]
    fn doubts_are_told() {
        let part = "Content-Disposition: form-data; name=\"a\"";
        for body in [
            format!("--XX\n{part}\n\nv\n--XX--"),
            format!("x\r\n--XX\r\n{part}\r\n\r\nv\r\n--XX--\r\n"),
            format!("--XX\r\n{part}; name=\"b\"\r\n\r\nv\r\n--XX--\r\n"),
            "--XX\r\nContent-Disposition: form-data; name=a\r\n\r\nv\r\n--XX--\r\n".to_owned(),
            format!("--XX\r\n{part}\r\n\r\nv\r\n--XX--\r\nmore"),
        ] {
            let out = read(TYPE, &body);
            assert!(out.strict, "{body:?}");
            assert_eq!(out.args.len(), 1, "{body:?}");
        }
    }

    #[test]
    fn broken_bodies_are_errors() {
        assert!(read("multipart/form-data", "--XX--").error.unwrap().contains("Boundary not found"));
        assert!(read(TYPE, "nothing").error.is_some());
        assert!(read(TYPE, "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nv").error.is_some());
        let bad = "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\x01X: y\r\n\r\nv\r\n--XX--\r\n";
        assert!(read(TYPE, bad).error.unwrap().ends_with("(contains invalid character)"));
    }
}
