//! Headers of the request as the upstream gets it:
//! `request = { set = { X-Client = "{ip}" }, append = { Via = "1.1 edge" }, remove = ["X-Debug-*"] }`.
//!
//! Removed first, then set, then appended; all values are computed from the request as it came. A value may hold facts:
//! `{ip}`, `{host}`, `{header.x-old}`, `{cert.cn}`, the route's captures. An empty value, or one that no header can hold,
//! is left out, and a client's header of a `set` name never stays. `Host` may be set; the headers that frame the message
//! (`Content-Length`, `Connection`, …) may not be touched.

use crate::cx::Cx;
use crate::edit::{Edit, Fields, Names};
use crate::expr::View;
use crate::filter::{BuildCx, BuildError, Filter, GO, Step};
use crate::head::RequestHead;
use serde_spanned::Spanned;

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Request"))]
pub struct Conf {
    /// Headers to set: `{ X-Client = "{ip}" }`. What was there under the name is replaced.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "std::collections::BTreeMap<String, crate::expr::Template>"))]
    pub set: Fields,
    /// Headers to add beside those already there.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "std::collections::BTreeMap<String, crate::expr::Template>"))]
    pub append: Fields,
    /// Headers to remove: names, or the beginning of names such as `"X-Debug-*"`.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<Names>"))]
    pub remove: Vec<Spanned<Names>>,
}

pub struct Request(Edit);

impl Filter for Request {
    type Conf = Conf;
    type Scratch = ();
    const EXAMPLE: &'static str = r#"request = { set = { X-Client = "{ip}", X-Edge = "1" }, append = { Via = "1.1 edge" }, remove = ["X-Debug-*"] }"#;

    fn build(conf: &Conf, cx: &BuildCx) -> Result<Option<Self>, BuildError> {
        Ok(Edit::build(&conf.set, &conf.append, &conf.remove, &["host"], cx)?.map(Request))
    }

    fn request(&self, _: &mut (), head: &mut RequestHead, cx: &mut Cx) -> Step {
        let values = self.0.values(&View { head, cx });
        self.0.apply(head, values, cx);
        GO
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, faults};

    #[test]
    fn set_append_remove() {
        check::<Request>(
            Request::EXAMPLE,
            "
            > GET http://h/
            > X-Client: somebody else
            > X-Debug-Level: 9
            > x-debug-mode: on
            > X-Debugger: stays
            > Via: 1.0 before
            >> X-Client: 10.0.0.1
            >> X-Edge: 1
            >> Via: 1.0 before, 1.1 edge
            >> X-Debugger: stays
            >> -X-Debug-Level
            >> -X-Debug-Mode
            ",
        );
    }

    #[test]
    fn values_may_hold_facts() {
        check::<Request>(
            r#"request.set = { X-User = "{id}", X-All = "{method} {scheme}://{host}{path}?{query.a}", X-Who = "{cert.cn}" }"#,
            "
            > GET https://h/users/b%20c?a=%0A {id}=b%20c cn=alice
            >> X-User: b%20c
            >> X-All: GET https://h/users/b%20c?%0A
            >> X-Who: alice
            ",
        );
    }

    #[test]
    fn a_header_can_be_renamed() {
        check::<Request>(
            r#"request = { set = { X-New = "{header.x-old}" }, remove = ["X-Old"] }"#,
            "
            > GET http://h/
            > X-Old: 7
            >> X-New: 7
            >> -X-Old
            ",
        );
    }

    #[test]
    fn an_empty_value_leaves_no_forged_header() {
        check::<Request>(
            r#"request = { set = { X-Who = "{cert.cn}" }, append = { X-List = "{cert.cn}" } }"#,
            "
            > GET http://h/
            > X-Who: admin
            > X-List: a
            >> -X-Who
            >> X-List: a
            ",
        );
    }

    #[test]
    fn host_may_be_set_and_never_vanishes() {
        check::<Request>(
            r#"request = { set = { Host = "{header.x-host}" }, remove = ["Ho*", "Content*"] }"#,
            "
            > POST http://h/
            > X-Host: inner
            > Content-Length: 1
            > Content-Type: a/b
            > \"x\"
            >> Host: inner
            >> Content-Length: 1
            >> -Content-Type

            > GET http://h/
            >> Host: h
            ",
        );
    }

    #[test]
    fn wrong() {
        for (conf, why) in [
            (r#"set = { Content-Length = "1" }"#, "`Content-Length` belongs to the connection"),
            (r#"remove = ["transfer-encoding"]"#, "`transfer-encoding` belongs to the connection"),
            (r#"append = { Host = "a" }"#, "`Host` can only be set"),
            (r#"remove = ["host"]"#, "`host` cannot be removed"),
            (r#"remove = ["*"]"#, "would remove every header"),
            (r#"set = { "X Y" = "1" }"#, "\"X Y\" is not a header's name"),
            (r#"set = { X-A = "1", x-a = "2" }"#, "is set twice"),
            (r#"set = { X-A = "a\nb" }"#, "no header can hold"),
            (r#"set = { X-A = "{hots.x}" }"#, "unknown variable `hots.x`"),
            (r#"set = { X-A = "{id}" }"#, "captures nothing"),
            (r#"sett = {}"#, "unknown field `sett`"),
        ] {
            assert!(faults(&format!("request = {{ {conf} }}")).contains(why), "{conf}");
        }
    }
}
