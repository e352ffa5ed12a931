//! Who may come in, by address: `ip = { allow = ["10.0.0.0/8"], deny = ["10.6.6.6"] }`.
//!
//! Others get 403. With `allow`, only these addresses pass; `deny` wins over `allow`. The address is the client's: behind
//! proxies that `[server] trusted` names, the one they tell, else the socket's. Lists may hold 100,000 blocks.

use crate::cx::Cx;
use crate::filter::{BuildCx, BuildError, Filter, GO, Reply, Step};
use crate::head::RequestHead;
use crate::nets::Nets;
use crate::units::{Cidr, Mode};

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Ip"))]
pub struct Conf {
    /// Only these blocks may come in, such as `["10.0.0.0/8", "2001:db8::/32"]`. Everybody by default.
    #[serde(default)]
    pub allow: Option<Vec<Cidr>>,
    /// These blocks may not, even if `allow` has them.
    #[serde(default)]
    pub deny: Vec<Cidr>,
    /// `enforce` (the default), `observe` or `off`.
    #[serde(default)]
    pub mode: Mode,
}

pub struct Ip {
    allow: Option<Nets>,
    deny: Nets,
    mode: Mode,
}

impl Filter for Ip {
    type Conf = Conf;
    type Scratch = ();
    const EXAMPLE: &'static str = r#"ip = { allow = ["10.0.0.0/8", "2001:db8::/32"], deny = ["10.6.6.6"] }"#;

    fn build(conf: &Conf, _: &BuildCx) -> Result<Option<Self>, BuildError> {
        if conf.allow.as_ref().is_some_and(Vec::is_empty) {
            return Err(BuildError::new("`allow = []` lets nobody in").hint("leave `allow` out to let everybody in"));
        }
        if conf.mode == Mode::Off || (conf.allow.is_none() && conf.deny.is_empty()) {
            return Ok(None);
        }
        Ok(Some(Ip { allow: conf.allow.as_ref().map(Nets::new), deny: Nets::new(&conf.deny), mode: conf.mode }))
    }

    fn request(&self, _: &mut (), _: &mut RequestHead, cx: &mut Cx) -> Step {
        if self.deny.contains(cx.ip) {
            return self.refuse(cx, "deny");
        }
        if self.allow.as_ref().is_some_and(|allow| !allow.contains(cx.ip)) {
            return self.refuse(cx, "allow");
        }
        GO
    }
}

impl Ip {
    #[cold]
    fn refuse(&self, cx: &mut Cx, rule: &'static str) -> Step {
        let why = if rule == "deny" { "is denied" } else { "is not among the allowed" };
        let reason = format!("{} {why}", cx.ip.to_canonical());
        cx.refuse(self.mode, rule, reason, || Reply::problem(403, "this address may not come in"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, faults};

    #[test]
    fn allow_and_deny() {
        check::<Ip>(
            Ip::EXAMPLE,
            r#"
            > GET http://h/ from 10.0.0.1
            >>

            > GET http://h/ from ::ffff:10.0.0.1
            >>

            > GET http://h/ from 2001:db8::7
            >>

            # denied within an allowed block
            > GET http://h/ from 10.6.6.6
            < 403
            < "this address may not come in"
            ! ip.deny enforce: 10.6.6.6 is denied

            > GET http://h/ from ::ffff:10.6.6.6
            < 403
            ! ip.deny enforce: 10.6.6.6 is denied

            > GET http://h/ from 192.168.0.1
            < 403
            ! ip.allow enforce: 192.168.0.1 is not among the allowed
            "#,
        );
    }

    #[test]
    fn deny_alone_lets_the_rest_in() {
        check::<Ip>(
            r#"ip.deny = ["10.0.0.0/8"]"#,
            "
            > GET http://h/ from 11.0.0.1
            >>
            > GET http://h/ from 10.0.0.1
            < 403
            ! ip.deny enforce
            ",
        );
    }

    #[test]
    fn observed() {
        check::<Ip>(
            r#"ip = { deny = ["10.0.0.0/8"], mode = "observe" }"#,
            "
            > GET http://h/ from 10.0.0.1
            >>
            < 200
            ! ip.deny observe
            ",
        );
    }

    #[test]
    fn wrong() {
        assert!(faults("ip.allow = []").starts_with("ip: `allow = []` lets nobody in"));
        assert!(faults(r#"ip.allow = ["10.0.0.0/33"]"#).contains("expected an address block"));
    }
}
