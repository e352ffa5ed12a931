//! XML to what rules see of it: `XML:/*`, all text of the document in one value, and `XML://@*`, each attribute.
//!
//! No DTD is ever read: a DOCTYPE is an error (entities that expand are how XML attacks work), and what follows it is still
//! looked at. Namespaces, validity and the order of elements are nobody's business here.

use crate::link::Options;
use crate::store::{Fields, Store};
use crate::vars::Var;

/// Elements may nest this deep.
const DEPTH: usize = 256;
/// Most attributes of one element.
const ATTRIBUTES: usize = 256;

pub fn parse(body: &[u8], _: &Options, store: &mut Store) -> Result<(), String> {
    let mut reader = Reader { text: body, at: 0, open: Vec::new(), seen_root: false, content: Vec::new(), error: None };
    if body.starts_with(b"\xef\xbb\xbf") {
        reader.at = 3;
    }
    let result = reader.run(store);
    if !reader.content.is_empty() || reader.seen_root {
        store.set(Var::XmlText, &reader.content);
    }
    result.and(reader.error.map_or(Ok(()), Err))
}

struct Reader<'t> {
    text: &'t [u8],
    at: usize,
    open: Vec<&'t [u8]>,
    seen_root: bool,
    content: Vec<u8>,
    /// An error after which reading went on.
    error: Option<String>,
}

impl<'t> Reader<'t> {
    fn run(&mut self, store: &mut Store) -> Result<(), String> {
        while self.at < self.text.len() {
            let rest = &self.text[self.at..];
            let next = memchr::memchr(b'<', rest).unwrap_or(rest.len());
            if next > 0 {
                self.characters(&rest[..next])?;
                self.at += next;
            } else if rest.starts_with(b"<!--") {
                self.at = self.after(4, b"-->")?;
            } else if rest.starts_with(b"<![CDATA[") {
                let end = self.after(9, b"]]>")?;
                self.content.extend_from_slice(&self.text[self.at + 9..end - 3]);
                self.at = end;
            } else if rest.starts_with(b"<?") {
                self.at = self.after(2, b"?>")?;
            } else if rest.starts_with(b"<!") {
                self.error.get_or_insert_with(|| format!("xml at byte {}: a document type is not allowed", self.at));
                self.doctype(store)?;
            } else if rest.starts_with(b"</") {
                self.close()?;
            } else {
                self.element(store)?;
            }
        }
        match self.open.last() {
            Some(name) => Err(format!("xml: element {:?} is not closed", String::from_utf8_lossy(name))),
            None if !self.seen_root => Err("xml: found no element".to_owned()),
            None => Ok(()),
        }
    }

    fn wrong(&self, expected: &str) -> String {
        format!("xml at byte {}: expected {expected}", self.at)
    }

    /// The position behind `end`, sought from `skip` bytes on.
    fn after(&self, skip: usize, end: &[u8]) -> Result<usize, String> {
        let from = self.at + skip;
        let found = self.text.get(from..).and_then(|rest| memchr::memmem::find(rest, end));
        found.map(|i| from + i + end.len()).ok_or_else(|| self.wrong(&String::from_utf8_lossy(end)))
    }

    fn characters(&mut self, text: &[u8]) -> Result<(), String> {
        if self.open.is_empty() {
            return match text.iter().all(u8::is_ascii_whitespace) {
                true => Ok(()),
                false => {
                    // Text outside the root is malformed, and it is text all the same.
                    self.content.extend_from_slice(text);
                    self.error.get_or_insert_with(|| format!("xml at byte {}: text outside the root element", self.at));
                    Ok(())
                }
            };
        }
        if !entities(text, &mut self.content) {
            self.error.get_or_insert_with(|| format!("xml at byte {}: an unknown entity", self.at));
        }
        Ok(())
    }

    /// Skips a DOCTYPE; its text is looked at as an attribute, for rules that seek ENTITY and SYSTEM.
    fn doctype(&mut self, store: &mut Store) -> Result<(), String> {
        let (mut depth, mut quote) = (0usize, None);
        for (i, &b) in self.text[self.at..].iter().enumerate() {
            match (quote, b) {
                (Some(q), _) if b == q => quote = None,
                (Some(_), _) => {}
                (None, b'"' | b'\'') => quote = Some(b),
                (None, b'[' | b'<') => depth += 1,
                (None, b']') => depth = depth.saturating_sub(1),
                (None, b'>') => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        store.add_text(Fields::XmlAttributes, b"doctype", &self.text[self.at..self.at + i + 1]);
                        self.at += i + 1;
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
        Err(self.wrong("the end of the document type"))
    }

    fn name(&mut self) -> Result<&'t [u8], String> {
        let rest = &self.text[self.at..];
        let end = rest
            .iter()
            .position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-' | b'.') || *b >= 0x80))
            .unwrap_or(rest.len());
        if end == 0 {
            return Err(self.wrong("a name"));
        }
        self.at += end;
        Ok(&rest[..end])
    }

    fn blank(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn element(&mut self, store: &mut Store) -> Result<(), String> {
        if self.open.is_empty() && self.seen_root {
            self.error.get_or_insert_with(|| format!("xml at byte {}: a second root element", self.at));
        }
        self.at += 1;
        let name = self.name()?;
        self.seen_root = true;
        for count in 0.. {
            self.blank();
            match self.text.get(self.at) {
                Some(b'>') => {
                    self.at += 1;
                    self.open.push(name);
                    return match self.open.len() > DEPTH {
                        true => Err(format!("xml: nested deeper than {DEPTH}")),
                        false => Ok(()),
                    };
                }
                Some(b'/') if self.text.get(self.at + 1) == Some(&b'>') => {
                    self.at += 2;
                    return Ok(());
                }
                _ if count >= ATTRIBUTES => return Err(format!("xml: more than {ATTRIBUTES} attributes")),
                _ => self.attribute(store)?,
            }
        }
        Ok(())
    }

    fn attribute(&mut self, store: &mut Store) -> Result<(), String> {
        let name = self.name()?;
        self.blank();
        if self.text.get(self.at) != Some(&b'=') {
            return Err(self.wrong("="));
        }
        self.at += 1;
        self.blank();
        let Some(quote @ (b'"' | b'\'')) = self.text.get(self.at).copied() else { return Err(self.wrong("a quote")) };
        let rest = &self.text[self.at + 1..];
        let Some(end) = memchr::memchr(quote, rest) else { return Err(self.wrong("a closing quote")) };
        let (value, known) = store.push_with(|out| entities(&rest[..end], out));
        if !known {
            self.error.get_or_insert_with(|| format!("xml at byte {}: an unknown entity", self.at));
        }
        let key = store.push(name);
        store.add(Fields::XmlAttributes, key, value);
        self.at += end + 2;
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        self.at += 2;
        let name = self.name()?;
        self.blank();
        if self.text.get(self.at) != Some(&b'>') {
            return Err(self.wrong(">"));
        }
        self.at += 1;
        match self.open.pop() {
            Some(open) if open == name => Ok(()),
            _ => Err(format!("xml: </{}> closes nothing", String::from_utf8_lossy(name))),
        }
    }
}

/// Text with the five entities of XML and character references undone; an unknown one stays and is told.
fn entities(text: &[u8], out: &mut Vec<u8>) -> bool {
    let mut known = true;
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'&', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        let end = rest.iter().take(12).position(|b| *b == b';');
        match end.and_then(|end| Some((entity(&rest[1..end])?, end))) {
            Some((c, end)) => {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[end + 1..];
            }
            None => {
                known = false;
                out.push(b'&');
                rest = &rest[1..];
            }
        }
    }
    out.extend_from_slice(rest);
    known
}

fn entity(name: &[u8]) -> Option<char> {
    Some(match name {
        b"lt" => '<',
        b"gt" => '>',
        b"amp" => '&',
        b"quot" => '"',
        b"apos" => '\'',
        [b'#', b'x', digits @ ..] => char::from_u32(u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?)?,
        [b'#', digits @ ..] => char::from_u32(std::str::from_utf8(digits).ok()?.parse().ok()?)?,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, Vec<String>, Option<String>) {
        let mut store = Store::default();
        let error = parse(text.as_bytes(), &Options::default(), &mut store).err();
        let show = |s| String::from_utf8_lossy(store.get(s)).into_owned();
        let attributes = store.fields(Fields::XmlAttributes).iter().map(|f| show(f.value)).collect();
        let content = String::from_utf8_lossy(store.one(Var::XmlText).unwrap_or_default()).into_owned();
        (content, attributes, error)
    }

    #[test]
    fn text_and_attributes() {
        let (text, attributes, error) =
            read("<?xml version='1.0'?><a x='1 &lt; 2'>foo<b y=\"z\"/><![CDATA[<c>]]><!-- no --> &#65;&amp;</a>\n");
        assert_eq!(text, "foo<c> A&");
        assert_eq!(attributes, ["1 < 2", "z"]);
        assert_eq!(error, None);
    }

    #[test]
    fn doctypes_are_errors_and_the_rest_is_read() {
        let (text, attributes, error) = read("<!DOCTYPE a [<!ENTITY x SYSTEM \"file:///etc/passwd\">]><a>&x;</a>");
        assert_eq!(text, "&x;");
        assert!(attributes[0].contains("file:///etc/passwd"));
        assert!(error.unwrap().contains("document type"));
    }

    #[test]
    fn malformed_documents_are_errors() {
        for text in ["", "<a>", "<a></b>", "<a x></a>", "<a x=1/>", "x<a/>", "<a/><b/>", "<", "<a x='", "<!DOCTYPE"] {
            assert!(read(text).2.is_some(), "{text}");
        }
        assert!(read(&"<a>".repeat(10_000)).2.unwrap().contains("nested"));
    }
}
