//! Headers of the response: set, append, remove.

use crate::filter::{BuildCx, BuildError, Filter};

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "response"))]
pub struct Conf {}

pub struct Response;

impl Filter for Response {
    type Conf = Conf;
    type Scratch = ();
    const EXAMPLE: &'static str = "response = {}";
    fn build(_: &Conf, _: &BuildCx) -> Result<Option<Self>, BuildError> {
        Ok(Some(Response))
    }
}
