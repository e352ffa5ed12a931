//! The back end of the suite: `POST /reflect` answers with what the JSON body asks for, everything else with 200 and
//! nothing.

use super::http::Request;
use super::yaml::Node;

pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

pub fn answer(request: &Request) -> Response {
    let mut response = Response { status: 200, headers: Vec::new(), body: Vec::new() };
    let path = request.target.split(|b| *b == b'?').next().unwrap_or_default();
    if path != b"/reflect" {
        return response;
    }
    let Some(wish) = std::str::from_utf8(&request.body).ok().and_then(json) else { return response };
    if let Some(status) = wish.get("status").and_then(Node::text).and_then(|t| t.parse().ok()) {
        response.status = status;
    }
    if let Some(Node::Map(headers)) = wish.get("headers") {
        response.headers.extend(headers.iter().filter_map(|(k, v)| Some((k.clone(), v.text()?.to_owned()))));
    }
    if let Some(body) = wish.get("body").and_then(Node::text) {
        response.body = body.as_bytes().to_vec();
    }
    if let Some(body) = wish.get("encodedBody").and_then(Node::text) {
        crate::Transform::Base64Decode.apply(body.as_bytes(), &mut response.body);
    }
    if !response.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("content-type")) {
        response.headers.push(("Content-Type".into(), "text/plain; charset=utf-8".into()));
    }
    response
}

/// JSON as a tree. Invalid JSON is no wish at all.
fn json(text: &str) -> Option<Node> {
    let mut reader = Reader { text: text.as_bytes(), at: 0 };
    let node = reader.value()?;
    reader.blank();
    (reader.at == reader.text.len()).then_some(node)
}

struct Reader<'t> {
    text: &'t [u8],
    at: usize,
}

impl Reader<'_> {
    fn blank(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn eat(&mut self, b: u8) -> bool {
        self.blank();
        let found = self.text.get(self.at) == Some(&b);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self) -> Option<Node> {
        self.blank();
        match self.text.get(self.at)? {
            b'{' => {
                self.at += 1;
                let mut map = Vec::new();
                while !self.eat(b'}') {
                    let Node::Text(key) = self.value()? else { return None };
                    self.eat(b':').then_some(())?;
                    map.push((key, self.value()?));
                    self.eat(b',');
                }
                Some(Node::Map(map))
            }
            b'"' => self.string().map(Node::Text),
            _ => {
                let rest = &self.text[self.at..];
                let end =
                    rest.iter().position(|b| !(b.is_ascii_alphanumeric() || b"+-.".contains(b))).unwrap_or(rest.len());
                self.at += end;
                (end > 0).then(|| Node::Text(String::from_utf8_lossy(&rest[..end]).into_owned()))
            }
        }
    }

    fn string(&mut self) -> Option<String> {
        let mut out = String::new();
        let text = std::str::from_utf8(&self.text[self.at + 1..]).ok()?;
        let mut chars = text.char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += 1 + i + 1;
                    return Some(out);
                }
                '\\' => match chars.next()?.1 {
                    'n' => out.push('\n'),
                    'r' => out.push('\r'),
                    't' => out.push('\t'),
                    'b' => out.push('\u{8}'),
                    'f' => out.push('\u{c}'),
                    'u' => {
                        let digits: String = (0..4).filter_map(|_| chars.next().map(|(_, c)| c)).collect();
                        out.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?).unwrap_or('\u{fffd}'));
                    }
                    c => out.push(c),
                },
                c => out.push(c),
            }
        }
        None
    }
}
