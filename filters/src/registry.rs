//! The one list becomes `Policy`, `Stage`, `Scratch` and `KINDS`. Nothing here knows a filter by name.
//!
//! A line is `key::Type,`. A step that stands a second time in the order writes `+ key::Type,`: the same key and
//! configuration, another stage. Two lines must not have the same type name, since scratch is named by it.

macro_rules! filters {
    ($( $(+ $again:ident)? $( $(#[$meta:meta])* $key:ident )? :: $Type:ident ),* $(,)?) => {
        /// What may happen to a request: one key per step.
        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        pub struct Policy { $($( $(#[$meta])* pub $key: Option<<$key::$Type as Filter>::Conf>, )?)* }

        /// One built step. Boxed, so that a stage is two words and the list stays close together.
        pub(crate) enum Stage { $( $Type(Box<$($key)?$($again)?::$Type>), )* }

        /// What the stages of one request remember.
        #[derive(Default)]
        #[allow(non_snake_case)]
        pub(crate) struct Scratch { $( $Type: <$($key)?$($again)?::$Type as Filter>::Scratch, )* }

        /// A step as the list has it.
        pub struct Kind {
            /// The TOML key.
            pub key: &'static str,
            /// The type's name: unlike the key, unique.
            pub name: &'static str,
            /// A complete table for the key.
            pub example: &'static str,
        }

        /// Every step, in the order of execution.
        pub const KINDS: &[Kind] = &[$( Kind {
            key: stringify!($($key)?$($again)?),
            name: stringify!($Type),
            example: <$($key)?$($again)?::$Type as Filter>::EXAMPLE,
        }, )*];

        impl Policy {
            /// The keys of the steps.
            pub const KEYS: &[&str] = &[$($( stringify!($key), )?)*];

            /// The stages in the order of the list; every step's fault is pushed under its key.
            pub(crate) fn stages(&self, cx: &BuildCx, faults: &mut Vec<(&'static str, BuildError)>) -> Vec<Stage> {
                let mut stages = Vec::new();
                $( if let Some(conf) = &self.$($key)?$($again)? {
                    match Filter::build(conf, cx) {
                        Ok(Some(f)) => stages.push(Stage::$Type(Box::new(f))),
                        Ok(None) => {}
                        Err(e) => faults.push((stringify!($($key)?$($again)?), e)),
                    }
                } )*
                stages
            }
        }

        impl Stage {
            /// The TOML key of the step.
            pub fn key(&self) -> &'static str { match self { $( Stage::$Type(_) => stringify!($($key)?$($again)?), )* } }
            pub fn request_bodies(&self) -> bool { match self { $( Stage::$Type(_) => <$($key)?$($again)?::$Type as Filter>::REQUEST_BODY, )* } }
            pub fn response_bodies(&self) -> bool { match self { $( Stage::$Type(_) => <$($key)?$($again)?::$Type as Filter>::RESPONSE_BODY, )* } }
            #[inline]
            pub fn request(&self, s: &mut Scratch, h: &mut RequestHead, cx: &mut Cx) -> Step {
                match self { $( Stage::$Type(f) => f.request(&mut s.$Type, h, cx), )* }
            }
            pub fn request_body(&self, s: &mut Scratch, c: &mut Option<Bytes>, end: bool, cx: &mut Cx) -> Step {
                match self { $( Stage::$Type(f) => f.request_body(&mut s.$Type, c, end, cx), )* }
            }
            #[inline]
            pub fn response(&self, s: &mut Scratch, h: &mut ResponseHead, r: &RequestHead, cx: &mut Cx) {
                match self { $( Stage::$Type(f) => f.response(&mut s.$Type, h, r, cx), )* }
            }
            pub fn response_body(&self, s: &mut Scratch, c: &mut Option<Bytes>, end: bool, cx: &mut Cx) {
                match self { $( Stage::$Type(f) => f.response_body(&mut s.$Type, c, end, cx), )* }
            }
            pub fn done(&self, s: &mut Scratch, cx: &Cx) {
                match self { $( Stage::$Type(f) => f.done(&mut s.$Type, cx), )* }
            }
        }
    };
}
