//! Who may do what: `allow = ["jwt.scope has 'orders:read'", "path.id == jwt.sub or jwt.role == 'admin'"]`.
//!
//! Every condition must hold; lists of several policies add up, and the element `"none"` clears what came before. The
//! refusal is 403, or 401 with the challenges of `auth` if the condition looks at an identity and there is none.

use crate::cx::Cx;
use crate::expr::{Expr, View};
use crate::filter::{BuildCx, BuildError, Filter, GO, Reply, Step};
use crate::head::RequestHead;
use crate::short::{Bad, Many, Short};
use crate::units::Mode;
use http::header::WWW_AUTHENTICATE;

/// One condition.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Allow"))]
pub struct Rule {
    /// What must hold, such as `"jwt.scope has 'orders:read'"`.
    #[serde(rename = "if")]
    pub condition: Expr,
    /// `enforce` (the default), `observe` or `off`.
    #[serde(default)]
    pub mode: Mode,
}

impl Short for Rule {
    const LINE: &'static str = "a condition such as \"jwt.scope has 'orders:read'\"";
    fn line(text: &str) -> Result<Rule, Bad> {
        Ok(Rule { condition: Expr::parse(text)?, mode: Mode::Enforce })
    }
}

pub struct Allow(Box<[Demand]>);

struct Demand {
    condition: Expr,
    mode: Mode,
    /// It looks at an identity.
    identity: bool,
}

impl Filter for Allow {
    type Conf = Many<Rule>;
    type Scratch = ();
    const EXAMPLE: &'static str = r#"allow = ["method != 'DELETE' or ip in '10.0.0.0/8'"]"#;

    fn build(conf: &Many<Rule>, _: &BuildCx) -> Result<Option<Self>, BuildError> {
        let demand = |rule: &Rule| Demand {
            condition: rule.condition.clone(),
            mode: rule.mode,
            identity: rule.condition.vars().iter().any(|v| v.is_identity()),
        };
        let rules: Box<[_]> =
            conf.iter().map(|rule| rule.get_ref()).filter(|r| r.mode != Mode::Off).map(demand).collect();
        Ok((!rules.is_empty()).then_some(Allow(rules)))
    }

    fn request(&self, _: &mut (), head: &mut RequestHead, cx: &mut Cx) -> Step {
        for demand in &self.0 {
            if !demand.condition.test(&View { head, cx }) {
                demand.refuse(cx)?;
            }
        }
        GO
    }
}

impl Demand {
    #[cold]
    fn refuse(&self, cx: &mut Cx) -> Step {
        let nobody = self.identity && cx.identities.is_empty();
        let challenges = cx.challenges.clone().filter(|_| nobody);
        let reason = if nobody { "it does not hold: nobody is authenticated" } else { "it does not hold" };
        cx.refuse(self.mode, self.condition.as_str().to_owned(), reason, || match challenges {
            None => Reply::problem(403, "this is not allowed"),
            Some(challenges) => challenges
                .iter()
                .fold(Reply::problem(401, "credentials are required"), |r, c| r.with(WWW_AUTHENTICATE, c.clone())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, faults};

    #[test]
    fn every_condition_must_hold() {
        check::<Allow>(
            r#"allow = ["method == 'GET'", "ip in '10.0.0.0/8'"]"#,
            "
            > GET http://h/
            >>

            > POST http://h/
            < 403
            < \"this is not allowed\"
            < -WWW-Authenticate
            ! allow.method == 'GET' enforce: it does not hold

            > GET http://h/ from 192.0.2.1
            < 403
            ! allow.ip in '10.0.0.0/8' enforce: it does not hold
            ",
        );
    }

    #[test]
    fn observed_and_off() {
        check::<Allow>(
            r#"allow = [{ if = "method == 'GET'", mode = "observe" }, { if = "not ip", mode = "off" }]"#,
            "
            > POST http://h/
            >>
            < 200
            ! allow.method == 'GET' observe: it does not hold
            ",
        );
    }

    #[test]
    fn wrong() {
        assert!(faults("allow = [\"method = 'GET'\"]").contains("expected `==`"));
        assert!(faults("allow = [\"jwt == 'a'\"]").contains("`jwt` needs a name"));
        assert!(faults("allow = 1").contains("a condition such as"));
    }
}
