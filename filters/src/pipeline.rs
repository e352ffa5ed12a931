//! A request's way through the stages: in order on the way in, reversed on the way out, only those that were entered.

use crate::cx::Cx;
use crate::filter::{BuildCx, BuildError, GO, Step};
use crate::head::{RequestHead, ResponseHead};
use crate::{Policy, Scratch, Stage};
use bytes::Bytes;

/// The built steps of one route.
pub struct Pipeline {
    stages: Box<[Stage]>,
    request_bodies: bool,
    response_bodies: bool,
}

/// One request's way through a pipeline. Made once per request.
#[derive(Default)]
pub struct Run {
    scratch: Scratch,
    entered: usize,
}

impl Pipeline {
    /// Every step of `policy`; each fault is pushed with its key.
    pub fn build(policy: &Policy, cx: &BuildCx, faults: &mut Vec<(&'static str, BuildError)>) -> Pipeline {
        let stages = policy.stages(cx, faults).into_boxed_slice();
        let request_bodies = stages.iter().any(Stage::request_bodies);
        let response_bodies = stages.iter().any(Stage::response_bodies);
        Pipeline { stages, request_bodies, response_bodies }
    }

    /// The keys of the stages, in order.
    pub fn steps(&self) -> impl Iterator<Item = &'static str> {
        self.stages.iter().map(Stage::key)
    }
    /// Some stage wants to see request bodies.
    pub fn request_bodies(&self) -> bool {
        self.request_bodies
    }
    /// Some stage wants to see response bodies.
    pub fn response_bodies(&self) -> bool {
        self.response_bodies
    }

    pub fn request(&self, run: &mut Run, head: &mut RequestHead, cx: &mut Cx) -> Step {
        while let Some(stage) = self.stages.get(run.entered) {
            run.entered += 1;
            cx.step = stage.key();
            stage.request(&mut run.scratch, head, cx)?;
        }
        GO
    }

    pub fn request_body(&self, run: &mut Run, chunk: &mut Option<Bytes>, end: bool, cx: &mut Cx) -> Step {
        for stage in self.stages[..run.entered].iter().filter(|s| s.request_bodies()) {
            cx.step = stage.key();
            stage.request_body(&mut run.scratch, chunk, end, cx)?;
        }
        GO
    }

    pub fn response(&self, run: &mut Run, head: &mut ResponseHead, request: &RequestHead, cx: &mut Cx) {
        for stage in self.stages[..run.entered].iter().rev() {
            cx.step = stage.key();
            stage.response(&mut run.scratch, head, request, cx);
        }
    }

    pub fn response_body(&self, run: &mut Run, chunk: &mut Option<Bytes>, end: bool, cx: &mut Cx) {
        for stage in self.stages[..run.entered].iter().rev().filter(|s| s.response_bodies()) {
            cx.step = stage.key();
            stage.response_body(&mut run.scratch, chunk, end, cx);
        }
    }

    pub fn done(&self, run: &mut Run, cx: &Cx) {
        for stage in &self.stages[..run.entered] {
            stage.done(&mut run.scratch, cx);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::KINDS;
    use crate::testing::{check, pipeline};

    #[test]
    fn every_example_is_a_policy_that_builds() {
        for kind in KINDS {
            let built = pipeline(kind.example, &[]).unwrap_or_else(|why| panic!("{}\n{why}", kind.example));
            assert_eq!(built.steps().collect::<Vec<_>>(), [kind.key], "{}", kind.example);
        }
    }

    #[test]
    fn the_order_is_the_lists_and_not_the_files() {
        let mut examples: Vec<_> = KINDS.iter().map(|k| k.example).collect();
        examples.reverse();
        let built = pipeline(&examples.join("\n"), &[]).unwrap();
        assert_eq!(built.steps().collect::<Vec<_>>(), KINDS.iter().map(|k| k.key).collect::<Vec<_>>());
        assert_eq!(
            built.steps().collect::<Vec<_>>(),
            ["compress", "response", "ip", "cors", "limit", "auth", "allow", "size", "request"],
            "what the manual says"
        );
    }

    #[test]
    fn steps_with_nothing_to_do_are_left_out() {
        let built = pipeline("size = { body = '1B', mode = 'off' }\nip = {}\nresponse = {}", &[]).unwrap();
        assert_eq!(built.steps().count(), 0);
        assert!(!built.request_bodies() && !built.response_bodies());
        let built = pipeline("size.body = '1B'", &[]).unwrap();
        assert!(built.request_bodies() && !built.response_bodies());
        let built = pipeline("compress = {}", &[]).unwrap();
        assert!(!built.request_bodies() && built.response_bodies());
    }

    /// `ip` refuses: `compress` and `response` stand before it and see the answer, `cors` and `request` behind it see
    /// neither way.
    #[test]
    fn the_way_out_is_that_of_the_entered_stages() {
        check::<crate::ip::Ip>(
            r#"
            ip.deny = ["10.6.6.6"]
            response.set = { X-Seen = "{header.x-mark}" }
            cors.origins = ["https://app.example.com"]
            request.set = { X-Mark = "set" }
            compress = { min_size = "1B" }
            "#,
            r#"
            > GET http://h/ from 10.6.6.6
            > Origin: https://app.example.com
            > X-Mark: sent
            > Accept-Encoding: gzip
            < 403
            < X-Seen: sent
            < -Access-Control-Allow-Origin
            < Content-Encoding: gzip
            < "this address may not come in"
            ! ip.deny enforce

            > GET http://h/
            > Origin: https://app.example.com
            > X-Mark: sent
            >> X-Mark: set
            << 200
            < X-Seen: set
            < Access-Control-Allow-Origin: https://app.example.com
            "#,
        );
    }

    #[test]
    fn every_decision_of_a_request_is_kept_in_order() {
        check::<crate::ip::Ip>(
            r#"
            ip = { deny = ["10.6.6.6"], mode = "observe" }
            cors = { origins = ["https://app.example.com"], mode = "observe" }
            size.uri = "5B"
            "#,
            r#"
            > OPTIONS http://h/123456 from 10.6.6.6
            > Origin: https://evil.example
            > Access-Control-Request-Method: GET
            < 414
            ! ip.deny observe: 10.6.6.6
            ! cors.origin observe: evil.example
            ! size.uri enforce: 7 bytes
            "#,
        );
    }

    #[test]
    fn all_faults_at_once() {
        let why = crate::testing::faults("ip.allow = []\ncors.origins = []\nrequest.set = { X-A = '{who}' }");
        assert_eq!(why.lines().map(|l| l.split(':').next().unwrap()).collect::<Vec<_>>(), ["ip", "cors", "request"]);
    }
}
