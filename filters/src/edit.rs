//! What the steps `request` and `response` have in common: headers are removed, then set, then appended.
//!
//! All values are computed before anything is changed, so a header can be renamed: `set = { X-New = "{header.x-old}" }`
//! with `remove = ["X-Old"]`. A value that comes out empty, or that no header can hold, is not written, and `set` then
//! leaves no header of that name: what a client sent under it never passes for the gateway's.

use crate::cx::Cx;
use crate::expr::{Template, View};
use crate::filter::{BuildCx, BuildError, Reply};
use crate::head::{RequestHead, ResponseHead};
use crate::short::Bad;
use crate::units::{Mode, Unit, unit};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_spanned::Spanned;
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// Headers by name, as configured.
pub type Fields = BTreeMap<Name, Spanned<Template>>;

/// The connection's own, and the body's frame (RFC 9110, sections 7.6.1 and 8.6): they belong to the gateway.
const FRAME: &[&str] = &[
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The name of a header that may be changed, as written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Unit for Name {
    const FORM: &'static str = "the name of a header";
    const PATTERN: &'static str = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$";
    fn parse(text: &str) -> Result<Name, Bad> {
        match HeaderName::from_bytes(text.as_bytes()) {
            Err(_) => Err(Bad::new(0..text.len(), format!("\"{text}\" is not a header's name"))),
            Ok(name) if FRAME.contains(&name.as_str()) => Err(Bad::new(0..text.len(), frame(text))),
            Ok(_) => Ok(Name(text.into())),
        }
    }
}
unit!(Name, "HeaderName");

fn frame(text: &str) -> String {
    format!("`{text}` belongs to the connection and is the gateway's own")
}

/// A header's name, or the beginning of names: `X-Debug-*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    One(Name),
    Prefix(String),
}

impl Unit for Names {
    const FORM: &'static str = "the name of a header, or the beginning of names such as \"X-Debug-*\"";
    const PATTERN: &'static str = "^[A-Za-z0-9!#$%&'+.^_`|~-]+[*]?$";
    fn parse(text: &str) -> Result<Names, Bad> {
        match text.strip_suffix('*') {
            None => Name::parse(text).map(Names::One),
            Some("") => Err(Bad::new(0..1, "\"*\" would remove every header, expected such as \"X-Debug-*\"")),
            Some(prefix) => HeaderName::from_bytes(prefix.as_bytes())
                .map(|n| Names::Prefix(n.as_str().into()))
                .map_err(|_| Bad::new(0..prefix.len(), format!("\"{prefix}\" does not begin a header's name"))),
        }
    }
}
unit!(Names, "HeaderNames");

/// A message whose headers can be edited.
pub trait Head {
    fn headers(&self) -> &HeaderMap;
    fn insert(&mut self, name: Bytes, value: HeaderValue);
    fn append(&mut self, name: Bytes, value: HeaderValue);
    fn remove(&mut self, name: &HeaderName);
}

macro_rules! head {
    ($Type:ty) => {
        impl Head for $Type {
            fn headers(&self) -> &HeaderMap {
                &self.headers
            }
            // Both fail only when the map is full, at 32768 headers.
            fn insert(&mut self, name: Bytes, value: HeaderValue) {
                _ = self.insert_header(name, value);
            }
            fn append(&mut self, name: Bytes, value: HeaderValue) {
                _ = self.append_header(name, value);
            }
            fn remove(&mut self, name: &HeaderName) {
                self.remove_header(name);
            }
        }
    };
}
head!(RequestHead);
head!(ResponseHead);

/// A prepared edit.
pub struct Edit {
    names: Box<[HeaderName]>,
    prefixes: Box<[String]>,
    puts: Box<[Put]>,
    fixed: &'static [&'static str],
}

struct Put {
    name: HeaderName,
    /// As configured, for HTTP/1.
    written: Bytes,
    append: bool,
    value: Source,
}

enum Source {
    Constant(HeaderValue),
    Template(Template),
}

/// What the facts made of the templates, in their order.
pub struct Values(SmallVec<[Made; 2]>);

enum Made {
    Value(HeaderValue),
    Empty,
    /// It holds what a header must not, such as a line end.
    Unfit,
}

impl Edit {
    /// `None` if there is nothing to do. `fixed` headers may be set but neither removed nor appended to.
    pub fn build(
        set: &Fields,
        append: &Fields,
        remove: &[Spanned<Names>],
        fixed: &'static [&'static str],
        cx: &BuildCx,
    ) -> Result<Option<Edit>, BuildError> {
        let mut puts: Vec<Put> = vec![];
        for (name, value) in set {
            let put = Put::build(name, value, false, cx)?;
            if puts.iter().any(|p| p.name == put.name) {
                return Err(BuildError::new(format!("`{}` is set twice", name.0)).at(value.span()));
            }
            puts.push(put);
        }
        for (name, value) in append {
            let put = Put::build(name, value, true, cx)?;
            if fixed.contains(&put.name.as_str()) {
                return Err(BuildError::new(format!("`{}` can only be set", name.0)).at(value.span()));
            }
            puts.push(put);
        }
        let (mut names, mut prefixes) = (vec![], vec![]);
        for entry in remove {
            match entry.get_ref() {
                Names::Prefix(prefix) => prefixes.push(prefix.clone()),
                Names::One(name) if fixed.contains(&name.header().as_str()) => {
                    return Err(BuildError::new(format!("`{}` cannot be removed", name.0)).at(entry.span()));
                }
                Names::One(name) => names.push(name.header()),
            }
        }
        let some = !(puts.is_empty() && names.is_empty() && prefixes.is_empty());
        Ok(some.then(|| Edit { names: names.into(), prefixes: prefixes.into(), puts: puts.into(), fixed }))
    }

    /// The values for this request, before anything is changed.
    pub fn values(&self, view: &View) -> Values {
        let mut text = String::new();
        let templates = self.puts.iter().filter_map(|put| match &put.value {
            Source::Constant(_) => None,
            Source::Template(template) => Some(template),
        });
        Values(
            templates
                .map(|template| {
                    text.clear();
                    template.render(view, &mut text);
                    match HeaderValue::from_bytes(text.as_bytes()) {
                        _ if text.is_empty() => Made::Empty,
                        Ok(value) => Made::Value(value),
                        Err(_) => Made::Unfit,
                    }
                })
                .collect(),
        )
    }

    pub fn apply(&self, head: &mut impl Head, values: Values, cx: &mut Cx) {
        self.names.iter().for_each(|name| head.remove(name));
        if !self.prefixes.is_empty() {
            self.remove_prefixes(head);
        }
        let mut values = values.0.into_iter();
        for put in &self.puts {
            let made = match &put.value {
                Source::Constant(value) => Made::Value(value.clone()),
                Source::Template(_) => values.next().unwrap_or(Made::Empty),
            };
            match made {
                Made::Value(value) if put.append => head.append(put.written.clone(), value),
                Made::Value(value) => head.insert(put.written.clone(), value),
                Made::Unfit => put.unfit(head, self.fixed, cx),
                Made::Empty => put.clear(head, self.fixed),
            }
        }
    }

    fn remove_prefixes(&self, head: &mut impl Head) {
        let kept = |name: &str| FRAME.contains(&name) || self.fixed.contains(&name);
        let found: SmallVec<[HeaderName; 4]> = head
            .headers()
            .keys()
            .filter(|n| self.prefixes.iter().any(|p| n.as_str().starts_with(&**p)) && !kept(n.as_str()))
            .cloned()
            .collect();
        found.iter().for_each(|name| head.remove(name));
    }
}

impl Put {
    fn build(name: &Name, value: &Spanned<Template>, append: bool, cx: &BuildCx) -> Result<Put, BuildError> {
        let template = value.get_ref();
        let bound =
            template.bind(cx.captures).map_err(|bad| BuildError::within(value.span(), template.as_str(), bad))?;
        let value = match bound.constant() {
            Some(text) => HeaderValue::from_bytes(text.as_bytes()).map(Source::Constant).map_err(|_| {
                BuildError::new(format!("the value of `{}` has characters that no header can hold", name.0))
                    .at(value.span())
            })?,
            None => Source::Template(bound),
        };
        Ok(Put { name: name.header(), written: Bytes::copy_from_slice(name.0.as_bytes()), append, value })
    }

    fn clear(&self, head: &mut impl Head, fixed: &[&str]) {
        if !self.append && !fixed.contains(&self.name.as_str()) {
            head.remove(&self.name);
        }
    }

    #[cold]
    fn unfit(&self, head: &mut impl Head, fixed: &[&str], cx: &mut Cx) {
        self.clear(head, fixed);
        let reason = format!("the value of `{}` does not fit a header, left out", self.name);
        // Observed: the request goes on without it.
        _ = cx.refuse(Mode::Observe, "value", reason, || Reply::empty(500));
    }
}

impl Name {
    pub(crate) fn header(&self) -> HeaderName {
        HeaderName::from_bytes(self.0.as_bytes()).expect("a Name is parsed only from a header's name")
    }
    /// As it is written.
    pub(crate) fn written(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cx::{Cert, Decision, Tls};
    use crate::pipeline::Run;
    use crate::testing::pipeline;
    use std::borrow::Cow;
    use std::sync::Arc;

    /// A certificate's name may hold anything, also a line end and a header of the attacker's choice.
    #[test]
    fn a_value_that_no_header_can_hold_is_left_out() {
        let conf = "request = { set = { X-Who = '{cert.cn}' }, append = { X-All = '{cert.cn}' } }";
        let pipeline = pipeline(conf, &[]).unwrap();
        let mut head = RequestHead::build("GET", b"/", None).unwrap();
        head.insert_header("X-Who", "forged").unwrap();
        head.insert_header("X-All", "stays").unwrap();
        let cert = Cert { cn: "alice\r\nX-Admin: 1".into(), ..Cert::default() };
        let mut cx = Cx { tls: Some(Arc::new(Tls { cert: Some(cert), ..Tls::default() })), ..Cx::default() };
        assert!(pipeline.request(&mut Run::default(), &mut head, &mut cx).is_continue());
        assert_eq!(head.headers.get("x-who"), None);
        assert_eq!(head.headers.get_all("x-all").iter().collect::<Vec<_>>(), ["stays"]);
        assert_eq!(head.headers.get("x-admin"), None);
        let expected = |name| Decision {
            step: "request",
            rule: Cow::Borrowed("value"),
            mode: Mode::Observe,
            reason: format!("the value of `{name}` does not fit a header, left out").into(),
        };
        assert_eq!(cx.decisions.as_slice(), [expected("x-who"), expected("x-all")]);
        assert_eq!(cx.verdict(), None);
    }

    #[test]
    fn http1_gets_the_name_as_written() {
        let pipeline = pipeline("request.set = { X-iD = '1' }", &[]).unwrap();
        let mut head = RequestHead::build("GET", b"/", None).unwrap();
        assert!(pipeline.request(&mut Run::default(), &mut head, &mut Cx::default()).is_continue());
        let mut wire = vec![];
        head.header_to_h1_wire(&mut wire);
        assert_eq!(wire, b"X-iD: 1\r\n");
    }
}
