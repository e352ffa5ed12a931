//! Headers of the response as the client gets it:
//! `response = { set = { Strict-Transport-Security = "max-age=31536000" }, remove = ["Server", "X-Powered-By"] }`.
//!
//! As [`request`](crate::request), for the way out: facts such as `{header.origin}` are those of the request. It also
//! dresses the gateway's own answers: a 401 or 502 gets the same headers.

use crate::cx::Cx;
use crate::edit::{Edit, Fields, Names};
use crate::expr::View;
use crate::filter::{BuildCx, BuildError, Filter};
use crate::head::{RequestHead, ResponseHead};
use serde_spanned::Spanned;

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Response"))]
pub struct Conf {
    /// Headers to set: `{ X-Frame-Options = "DENY" }`. What was there under the name is replaced.
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

pub struct Response(Edit);

impl Filter for Response {
    type Conf = Conf;
    type Scratch = ();
    const EXAMPLE: &'static str = r#"response = { set = { Strict-Transport-Security = "max-age=31536000" }, remove = ["Server", "X-Powered-By"] }"#;

    fn build(conf: &Conf, cx: &BuildCx) -> Result<Option<Self>, BuildError> {
        Ok(Edit::build(&conf.set, &conf.append, &conf.remove, &[], cx)?.map(Response))
    }

    fn response(&self, _: &mut (), head: &mut ResponseHead, request: &RequestHead, cx: &mut Cx) {
        let values = self.0.values(&View { head: request, cx });
        self.0.apply(head, values, cx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, faults};

    #[test]
    fn set_append_remove() {
        check::<Response>(
            r#"response = { set = { X-Route = "{route}" }, append = { Set-Cookie = "edge=1" }, remove = ["Server"] }"#,
            "
            > GET http://h/ route=users
            << 200
            << Server: nginx
            << X-Route: forged
            << Set-Cookie: a=b
            < X-Route: users
            < Set-Cookie: a=b, edge=1
            < -Server
            ",
        );
    }

    #[test]
    fn the_gateways_own_answers_are_dressed_too() {
        check::<Response>(
            r#"
            response.set = { Strict-Transport-Security = "max-age=1" }
            ip.deny = ["10.6.6.6"]
            cors.origins = ["https://app.example.com"]
            "#,
            "
            > GET http://h/ from 10.6.6.6
            < 403
            < Strict-Transport-Security: max-age=1
            # `cors` was never entered, so it says nothing
            < -Vary
            ! ip.deny enforce
            ",
        );
    }

    #[test]
    fn facts_are_those_of_the_request() {
        check::<Response>(
            r#"response.set = { X-Echo = "{header.x-in}", X-User = "{id}" }"#,
            "
            > GET http://h/users/7 {id}=7
            > X-In: a\tb
            << 200
            << X-In: the upstream's
            < X-Echo: a\tb
            < X-User: 7
            ",
        );
    }

    #[test]
    fn wrong() {
        for (conf, why) in [
            (r#"set = { Content-Length = "1" }"#, "`Content-Length` belongs to the connection"),
            (r#"set = { X-A = "{nobody}" }"#, "`nobody` is no variable"),
        ] {
            assert!(faults(&format!("response = {{ {conf} }}")).contains(why), "{conf}");
        }
    }
}
