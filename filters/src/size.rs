//! How large a request may be: `size = { body = "10MB", headers = "16KiB", uri = "2KiB" }`.
//!
//! Refused are a longer body with 413, a longer path and query with 414, longer headers with 431. A body whose length is
//! told is refused before a byte of it is read; one whose length is not told, as soon as too much of it has come. What
//! had gone to the upstream by then was never a whole request, so nothing acts on half of it.

use crate::cx::Cx;
use crate::filter::{BuildCx, BuildError, Filter, GO, Reply, Step};
use crate::head::{self, RequestHead};
use crate::units::{ByteSize, Mode};
use bytes::Bytes;

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Size"))]
pub struct Conf {
    /// The largest body, such as `"10MB"`. Not limited here by default.
    #[serde(default)]
    pub body: Option<ByteSize>,
    /// The most that all headers may take together: names, values and four bytes each. Not limited here by default.
    #[serde(default)]
    pub headers: Option<ByteSize>,
    /// The longest path and query together. Not limited here by default.
    #[serde(default)]
    pub uri: Option<ByteSize>,
    /// `enforce` (the default), `observe` or `off`.
    #[serde(default)]
    pub mode: Mode,
}

pub struct Size {
    body: u64,
    headers: u64,
    uri: u64,
    mode: Mode,
}

/// What came of the body so far.
#[derive(Default)]
pub struct Body {
    seen: u64,
    /// One decision per request is enough, also when it is only observed.
    told: bool,
}

impl Filter for Size {
    type Conf = Conf;
    type Scratch = Body;
    const EXAMPLE: &'static str = r#"size = { body = "10MB", headers = "16KiB", uri = "2KiB" }"#;
    const REQUEST_BODY: bool = true;

    fn build(conf: &Conf, _: &BuildCx) -> Result<Option<Self>, BuildError> {
        let unlimited = conf.body.is_none() && conf.headers.is_none() && conf.uri.is_none();
        if conf.mode == Mode::Off || unlimited {
            return Ok(None);
        }
        let most = |size: Option<ByteSize>| size.map_or(u64::MAX, |s| s.0);
        Ok(Some(Size { body: most(conf.body), headers: most(conf.headers), uri: most(conf.uri), mode: conf.mode }))
    }

    fn request(&self, body: &mut Body, head: &mut RequestHead, cx: &mut Cx) -> Step {
        let uri = head.uri.path_and_query().map_or(0, |p| p.as_str().len()) as u64;
        if uri > self.uri {
            self.refuse(cx, "uri", uri, self.uri, 414)?;
        }
        if self.headers < u64::MAX {
            let size: usize = head.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 4).sum();
            if size as u64 > self.headers {
                self.refuse(cx, "headers", size as u64, self.headers, 431)?;
            }
        }
        let told = head::header(&head.headers, "content-length").and_then(|l| l.parse::<u64>().ok());
        match told.filter(|told| *told > self.body) {
            Some(told) => {
                body.told = true;
                self.refuse(cx, "body", told, self.body, 413)
            }
            None => GO,
        }
    }

    fn request_body(&self, body: &mut Body, chunk: &mut Option<Bytes>, _end: bool, cx: &mut Cx) -> Step {
        body.seen += chunk.as_ref().map_or(0, |c| c.len() as u64);
        if body.seen <= self.body || body.told {
            return GO;
        }
        body.told = true;
        self.refuse(cx, "body", body.seen, self.body, 413)
    }
}

impl Size {
    #[cold]
    fn refuse(&self, cx: &mut Cx, what: &'static str, found: u64, most: u64, status: u16) -> Step {
        let reason = format!("{what} of at least {found} bytes, the most is {most}");
        cx.refuse(self.mode, what, reason, || {
            Reply::problem(status, format!("the {what} may have {most} bytes at most"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check;

    #[test]
    fn a_told_length_is_refused_at_once() {
        check::<Size>(
            r#"size.body = "10B""#,
            r#"
            > POST http://h/
            > Content-Length: 11
            < 413
            < "the body may have 10 bytes at most"
            ! size.body enforce: 11 bytes

            > POST http://h/
            > Content-Length: 10
            > 10B
            >> 10B
            "#,
        );
    }

    #[test]
    fn an_untold_length_is_counted() {
        check::<Size>(
            r#"size.body = "10B""#,
            r#"
            > POST http://h/
            > "12345"
            > "67890"
            >> "1234567890"

            > POST http://h/
            > "12345"
            > "678901"
            > "more"
            >> "12345"
            < 413
            ! size.body enforce: 11 bytes
            "#,
        );
    }

    #[test]
    fn long_addresses_and_headers() {
        check::<Size>(
            r#"size = { uri = "10B", headers = "20B" }"#,
            r#"
            > GET /123456789
            >> GET /123456789

            > GET /12345?7890
            < 414
            ! size.uri enforce: 11 bytes

            > GET /
            > X-A: 1234567890123
            >>

            > GET /
            > X-A: 12345678901234
            < 431
            ! size.headers enforce: 21 bytes
            "#,
        );
    }

    #[test]
    fn observed_is_told_once_and_passes() {
        check::<Size>(
            r#"size = { body = "3B", uri = "1B", mode = "observe" }"#,
            r#"
            > POST http://h/a
            > Content-Length: 8
            > "1234"
            > "5678"
            >> "12345678"
            ! size.uri observe
            ! size.body observe
            "#,
        );
    }

    #[test]
    fn an_observed_refusal_hides_no_enforced_one() {
        check::<Size>(
            "size = { body = '3B', mode = 'observe' }\nip.deny = ['10.6.6.6']",
            "
            > POST http://h/ from 10.6.6.6
            > Content-Length: 8
            < 403
            ! ip.deny enforce

            > POST http://h/
            > Content-Length: 8
            >>
            ! size.body observe
            ",
        );
    }
}
