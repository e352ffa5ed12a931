//! HTTP/1 messages, read to the byte: a message that ends too early or is framed wrongly is an error, never a guess.

use std::io::{self, Read};

/// A connection's read half with what was read ahead.
pub struct Reader<R> {
    pub from: R,
    pub ahead: Vec<u8>,
}

/// A head, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub raw: String,
    /// The request line or the status line.
    pub first: String,
    pub headers: Vec<(String, String)>,
}

/// A response, with everything that came before it.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub head: Head,
    pub body: Vec<u8>,
    /// The statuses of the informational responses before this one.
    pub early: Vec<u16>,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }
    /// The request's method, or the response's version.
    pub fn word(&self, nth: usize) -> &str {
        self.first.split(' ').nth(nth).unwrap_or_default()
    }
    fn says(&self, name: &str, value: &str) -> bool {
        self.all(name).iter().flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case(value))
    }
}

impl Response {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or("(not text)")
    }
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("expected JSON ({e}): {self:?}"))
    }
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }
    /// This is the gateway's own refusal: a problem document that repeats the status.
    #[track_caller]
    pub fn assert_problem(&self, status: u16) -> serde_json::Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{problem}");
        problem
    }
}

pub fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}
fn cut(while_reading: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the connection ended in {while_reading}"))
}

impl<R: Read> Reader<R> {
    pub fn new(from: R) -> Reader<R> {
        Reader { from, ahead: Vec::new() }
    }

    /// Reads more bytes ahead: false at the end of the connection.
    pub fn more(&mut self) -> io::Result<bool> {
        let mut piece = [0; 16384];
        let n = self.from.read(&mut piece)?;
        self.ahead.extend_from_slice(&piece[..n]);
        Ok(n > 0)
    }

    fn line(&mut self, part: &str) -> io::Result<String> {
        loop {
            if let Some(end) = self.ahead.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.ahead[..end]).into_owned();
                self.ahead.drain(..end + 2);
                return Ok(line);
            }
            if !self.more()? {
                return Err(cut(part));
            }
        }
    }

    /// Reads a head; `None` when the connection ends before its first byte.
    pub fn head(&mut self) -> io::Result<Option<Head>> {
        let end = loop {
            if let Some(at) = self.ahead.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more()? {
                return if self.ahead.is_empty() { Ok(None) } else { Err(cut("a head")) };
            }
        };
        let raw: Vec<u8> = self.ahead.drain(..end).collect();
        let raw = String::from_utf8_lossy(&raw).into_owned();
        let mut lines = raw.trim_end_matches("\r\n").split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let headers = lines.map(field).collect::<io::Result<_>>()?;
        Ok(Some(Head { first, headers, raw }))
    }

    /// Exactly `length` bytes.
    pub fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.ahead.len() < length {
            if !self.more()? {
                return Err(cut(&format!("a body, after {} of {length} bytes", self.ahead.len())));
            }
        }
        Ok(self.ahead.drain(..length).collect())
    }

    /// Everything until the end of the connection.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.more()? {}
        Ok(std::mem::take(&mut self.ahead))
    }

    fn length(head: &Head) -> io::Result<Option<usize>> {
        match head.all("content-length")[..] {
            [] => Ok(None),
            [one] => one.parse().map(Some).map_err(|_| bad(format!("Content-Length: {one}"))),
            _ => Err(bad("several Content-Length")),
        }
    }

    /// One chunk; `None` is the last.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let size = self.line("a chunk's size")?;
        let digits = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(digits, 16).map_err(|_| bad(format!("chunk size {size:?}")))?;
        if size == 0 {
            return Ok(None);
        }
        let chunk = self.exactly(size)?;
        match self.exactly(2)?.as_slice() {
            b"\r\n" => Ok(Some(chunk)),
            other => Err(bad(format!("after a chunk: {other:?}"))),
        }
    }

    fn chunked(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk()? {
            body.extend_from_slice(&chunk);
        }
        // Trailers, up to the empty line.
        while !self.line("trailers")?.is_empty() {}
        Ok(body)
    }

    /// The body of a request.
    pub fn request_body(&mut self, head: &Head) -> io::Result<Vec<u8>> {
        match (head.says("transfer-encoding", "chunked"), Self::length(head)?) {
            (true, Some(_)) => Err(bad("both Content-Length and Transfer-Encoding")),
            (true, None) => self.chunked(),
            (false, length) => self.exactly(length.unwrap_or(0)),
        }
    }

    /// A whole response to `method`. After 101, what follows stays in `ahead`.
    pub fn response(&mut self, method: &str) -> io::Result<Response> {
        let mut early = Vec::new();
        let (status, head) = loop {
            let head = self.head()?.ok_or_else(|| cut("waiting for a response"))?;
            if !head.first.starts_with("HTTP/1.") {
                return Err(bad(format!("no status line: {:?}", head.first)));
            }
            let status: u16 = head.word(1).parse().map_err(|_| bad(format!("status line {:?}", head.first)))?;
            match status {
                100..=199 if status != 101 => early.push(status),
                _ => break (status, head),
            }
        };
        let body = match (head.says("transfer-encoding", "chunked"), Self::length(&head)?) {
            _ if method == "HEAD" || matches!(status, 101 | 204 | 304) => Vec::new(),
            (true, Some(_)) => return Err(bad("both Content-Length and Transfer-Encoding")),
            (true, None) => self.chunked()?,
            (false, Some(length)) => self.exactly(length)?,
            (false, None) => self.rest()?,
        };
        Ok(Response { status, head, body, early })
    }
}

fn field(line: &str) -> io::Result<(String, String)> {
    let (name, value) = line.split_once(':').ok_or_else(|| bad(format!("header line {line:?}")))?;
    Ok((name.to_owned(), value.trim().to_owned()))
}
