//! The JSON Schema of the file, for editors: draft-07, which is what they support most widely. It is made from the very
//! types that read the file. Its surprise: a route is two structs when read, and one table when edited.

use super::{Server, admin, listen, route, service};
use filters::Policy;
use filters::auth::{jwt, keys};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::Value;
use std::collections::BTreeMap;

/// The schema of the whole file.
pub fn schema() -> Value {
    let generator = SchemaSettings::draft07().with_transform(no_null).into_generator();
    generator.into_root_schema_for::<File>().to_value()
}

/// A Portcullis configuration.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, rename = "portcullis.toml")]
#[expect(dead_code, reason = "only its schema is used")]
struct File {
    /// The version of the format; 1.
    version: Option<Version>,
    /// More files, as paths or patterns relative to this file: `["conf.d/*.toml"]`.
    include: Option<Include>,
    /// What holds for the whole process.
    server: Option<Server>,
    /// The admin endpoint: metrics, health, reload.
    admin: Option<admin::Conf>,
    /// Where connections come in.
    listen: Option<BTreeMap<String, listen::Conf>>,
    /// Signed tokens that prove who somebody is, for `auth`.
    jwt: Option<BTreeMap<String, jwt::Conf>>,
    /// API keys that prove it.
    keys: Option<BTreeMap<String, keys::Conf>>,
    /// Steps under a name, for routes to share.
    policy: Option<BTreeMap<String, Policy>>,
    /// Upstream services.
    service: Option<BTreeMap<String, service::Conf>>,
    /// Which request goes where, and through which steps.
    route: Option<BTreeMap<String, Route>>,
}

struct Version;
impl JsonSchema for Version {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Version".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "integer", "const": 1 })
    }
}

struct Include;
impl JsonSchema for Include {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Include".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> Schema {
        let text = schemars::json_schema!({ "type": "string" });
        schemars::json_schema!({ "anyOf": [text.clone(), { "type": "array", "items": text }] })
    }
}

/// Which request goes where, and through which steps.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct Route {
    #[serde(flatten)]
    own: route::Conf,
    #[serde(flatten)]
    steps: Policy,
}

/// TOML has no null: what may be absent may not be null.
fn no_null(schema: &mut Schema) {
    for list in ["anyOf", "oneOf"] {
        let Some(all) = schema.get_mut(list).and_then(Value::as_array_mut) else { continue };
        all.retain(|v| v["type"] != "null" && v.get("const") != Some(&Value::Null));
        if let [one] = &all[..] {
            let one = one.clone();
            schema.remove(list);
            if let Value::Object(keys) = one {
                for (k, v) in keys {
                    schema.insert(k, v);
                }
            }
        }
    }
    if let Some(types) = schema.get_mut("type").and_then(Value::as_array_mut) {
        types.retain(|v| v != "null");
        if let [one] = &types[..] {
            let one = one.clone();
            schema.insert("type".into(), one);
        }
    }
    if let Some(values) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        values.retain(|v| !v.is_null());
    }
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    schemars::transform::transform_subschemas(&mut no_null, schema);
}
