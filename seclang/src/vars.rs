//! The variables of the language: their names, which are collections, and how a key selects from one.

use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

macro_rules! vars {
    ($($variant:ident $name:literal $kind:ident,)*) => {
        /// A variable that a rule can look at.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[expect(clippy::enum_variant_names, reason = "the names are the language's")]
        pub enum Var { $($variant,)* }

        const TABLE: &[(Var, &str, Kind)] = &[$((Var::$variant, $name, Kind::$kind),)*];

        impl Var {
            /// The name that rules use, in upper case.
            pub fn name(self) -> &'static str {
                TABLE[self as usize].1
            }
            fn kind(self) -> Kind {
                TABLE[self as usize].2
            }
        }
    };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One value.
    One,
    /// Values under keys.
    Many,
    /// Values under keys that rules write.
    Written,
}

vars! {
    Args "ARGS" Many,
    ArgsNames "ARGS_NAMES" Many,
    ArgsGet "ARGS_GET" Many,
    ArgsGetNames "ARGS_GET_NAMES" Many,
    ArgsPost "ARGS_POST" Many,
    ArgsPostNames "ARGS_POST_NAMES" Many,
    ArgsCombinedSize "ARGS_COMBINED_SIZE" One,
    AuthType "AUTH_TYPE" One,
    Duration "DURATION" One,
    Env "ENV" Many,
    Files "FILES" Many,
    FilesNames "FILES_NAMES" Many,
    FilesSizes "FILES_SIZES" Many,
    FilesCombinedSize "FILES_COMBINED_SIZE" One,
    FullRequestLength "FULL_REQUEST_LENGTH" One,
    Geo "GEO" Many,
    Global "GLOBAL" Written,
    HighestSeverity "HIGHEST_SEVERITY" One,
    InboundDataError "INBOUND_DATA_ERROR" One,
    Ip "IP" Written,
    MatchedVar "MATCHED_VAR" One,
    MatchedVarName "MATCHED_VAR_NAME" One,
    MatchedVars "MATCHED_VARS" Many,
    MatchedVarsNames "MATCHED_VARS_NAMES" Many,
    MultipartFilename "MULTIPART_FILENAME" Many,
    MultipartName "MULTIPART_NAME" Many,
    MultipartPartHeaders "MULTIPART_PART_HEADERS" Many,
    MultipartStrictError "MULTIPART_STRICT_ERROR" One,
    MultipartUnmatchedBoundary "MULTIPART_UNMATCHED_BOUNDARY" One,
    OutboundDataError "OUTBOUND_DATA_ERROR" One,
    PathInfo "PATH_INFO" One,
    QueryString "QUERY_STRING" One,
    RemoteAddr "REMOTE_ADDR" One,
    RemoteHost "REMOTE_HOST" One,
    RemotePort "REMOTE_PORT" One,
    RemoteUser "REMOTE_USER" One,
    ReqbodyError "REQBODY_ERROR" One,
    ReqbodyErrorMsg "REQBODY_ERROR_MSG" One,
    ReqbodyProcessor "REQBODY_PROCESSOR" One,
    ReqbodyProcessorError "REQBODY_PROCESSOR_ERROR" One,
    ReqbodyProcessorErrorMsg "REQBODY_PROCESSOR_ERROR_MSG" One,
    RequestBasename "REQUEST_BASENAME" One,
    RequestBody "REQUEST_BODY" One,
    RequestBodyLength "REQUEST_BODY_LENGTH" One,
    RequestCookies "REQUEST_COOKIES" Many,
    RequestCookiesNames "REQUEST_COOKIES_NAMES" Many,
    RequestFilename "REQUEST_FILENAME" One,
    RequestHeaders "REQUEST_HEADERS" Many,
    RequestHeadersNames "REQUEST_HEADERS_NAMES" Many,
    RequestLine "REQUEST_LINE" One,
    RequestMethod "REQUEST_METHOD" One,
    RequestProtocol "REQUEST_PROTOCOL" One,
    RequestUri "REQUEST_URI" One,
    RequestUriRaw "REQUEST_URI_RAW" One,
    Resource "RESOURCE" Written,
    ResponseBody "RESPONSE_BODY" One,
    ResponseContentLength "RESPONSE_CONTENT_LENGTH" One,
    ResponseContentType "RESPONSE_CONTENT_TYPE" One,
    ResponseHeaders "RESPONSE_HEADERS" Many,
    ResponseHeadersNames "RESPONSE_HEADERS_NAMES" Many,
    ResponseProtocol "RESPONSE_PROTOCOL" One,
    ResponseStatus "RESPONSE_STATUS" One,
    ServerAddr "SERVER_ADDR" One,
    ServerName "SERVER_NAME" One,
    ServerPort "SERVER_PORT" One,
    Session "SESSION" Written,
    SessionId "SESSIONID" One,
    StatusLine "STATUS_LINE" One,
    Tx "TX" Written,
    UniqueId "UNIQUE_ID" One,
    UrlencodedError "URLENCODED_ERROR" One,
    User "USER" Written,
    UserId "USERID" One,
    XmlText "XML:/*" One,
    XmlAttributes "XML://@*" Many,
}

/// How many variables there are.
pub const COUNT: usize = TABLE.len();

/// The variable of a number below `COUNT`.
pub fn from_index(index: usize) -> Var {
    TABLE[index].0
}

impl Var {
    pub fn parse(name: &str) -> Option<Var> {
        TABLE.iter().find(|(_, n, _)| n.eq_ignore_ascii_case(name)).map(|(v, _, _)| *v)
    }

    pub fn is_collection(self) -> bool {
        self.kind() != Kind::One
    }

    pub fn is_writable(self) -> bool {
        self.kind() == Kind::Written
    }
}

/// What part of a variable a rule means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    pub var: Var,
    pub selector: Selector,
    /// `&ARGS`: the number of values instead of the values.
    pub count: bool,
}

/// Which keys of a collection.
#[derive(Clone)]
pub enum Selector {
    All,
    /// In lower case; keys compare without case.
    Key(Arc<[u8]>),
    Pattern(Arc<str>, Regex),
}

impl Selector {
    /// `/…/` in a target: matches without case, anywhere in the key.
    pub fn pattern(text: &str) -> Result<Selector, String> {
        let translated = crate::operators::pcre::translate(text).map_err(|e| format!("key /{text}/: {e}"))?;
        RegexBuilder::new(&translated)
            .unicode(false)
            .case_insensitive(true)
            .dot_matches_new_line(true)
            .build()
            .map(|regex| Selector::Pattern(text.into(), regex))
            .map_err(|e| format!("key /{text}/: {e}"))
    }

    pub fn holds(&self, key: &[u8]) -> bool {
        match self {
            Selector::All => true,
            Selector::Key(k) => key.eq_ignore_ascii_case(k),
            Selector::Pattern(_, regex) => regex.is_match(key),
        }
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Selector::All, Selector::All) => true,
            (Selector::Key(a), Selector::Key(b)) => a == b,
            (Selector::Pattern(a, _), Selector::Pattern(b, _)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Selector {}

impl std::hash::Hash for Selector {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        match self {
            Selector::All => 0u8.hash(state),
            Selector::Key(k) => k.hash(state),
            Selector::Pattern(p, _) => p.hash(state),
        }
    }
}

impl std::fmt::Debug for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Selector::All => f.write_str("*"),
            Selector::Key(k) => write!(f, "{:?}", String::from_utf8_lossy(k)),
            Selector::Pattern(p, _) => write!(f, "/{p}/"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_the_order_of_the_enum() {
        for (i, (var, name, _)) in TABLE.iter().enumerate() {
            assert_eq!(*var as usize, i);
            assert_eq!(Var::parse(&name.to_ascii_lowercase()), Some(*var));
        }
    }

    #[test]
    fn keys_compare_without_case() {
        assert!(Selector::Key(b"user-agent"[..].into()).holds(b"User-Agent"));
        assert!(Selector::pattern("^header_").unwrap().holds(b"HEADER_x"));
    }
}
