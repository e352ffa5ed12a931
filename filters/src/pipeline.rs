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
