//! What came out: which rules matched and on what, the scores, and the decision.

/// A rule that matched.
#[derive(Debug, Clone)]
pub struct Match {
    pub rule: u64,
    pub phase: u8,
    /// From the rule's tag `paranoia-level/N`; 0 if it has none.
    pub paranoia: u8,
    /// 0 (emergency) to 7 (debug).
    pub severity: Option<u8>,
    pub message: String,
    pub data: String,
    /// Where it matched and what, shortened.
    pub parts: Vec<Part>,
    /// Whether the rule would stop the request by itself.
    pub disruptive: bool,
    /// The rule's index in its program: tags and place are there.
    pub index: u32,
}

/// A value that matched, by the name that rules and exclusions use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub name: String,
    pub value: String,
}

/// Longest shown piece of a value.
pub const PART_LIMIT: usize = 256;
/// Longest message or data.
pub const TEXT_LIMIT: usize = 2048;
/// Most values shown per rule.
pub const PARTS_LIMIT: usize = 8;

/// What to do with the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Pass,
    /// A rule stopped it.
    Deny {
        status: u16,
        rule: u64,
    },
    /// A rule would have stopped it, were the engine not only detecting.
    Observe {
        status: u16,
        rule: u64,
    },
    /// The message is larger than the engine may look at.
    TooLarge,
}

impl Decision {
    pub fn stops(&self) -> bool {
        matches!(self, Decision::Deny { .. } | Decision::TooLarge)
    }
}

/// The anomaly scores as the Core Rule Set keeps them; all 0 where rules keep none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scores {
    /// What counts for blocking.
    pub inbound: i64,
    pub outbound: i64,
    /// What counts for detection, at a paranoia level that may be higher.
    pub inbound_detect: i64,
    pub outbound_detect: i64,
    pub sql_injection: i64,
    pub xss: i64,
    pub rfi: i64,
    pub lfi: i64,
    pub rce: i64,
    pub php: i64,
    pub http: i64,
    pub session: i64,
}

/// The names of the scores in `TX`, in the order of the struct. CRS 3 calls the first two otherwise.
pub(crate) const SCORE_NAMES: [&[&str]; 12] = [
    &["blocking_inbound_anomaly_score", "anomaly_score"],
    &["blocking_outbound_anomaly_score", "outbound_anomaly_score"],
    &["detection_inbound_anomaly_score", "detection_anomaly_score"],
    &["detection_outbound_anomaly_score"],
    &["sql_injection_score"],
    &["xss_score"],
    &["rfi_score"],
    &["lfi_score"],
    &["rce_score"],
    &["php_injection_score"],
    &["http_violation_score"],
    &["session_fixation_score"],
];

impl Scores {
    pub(crate) fn from_list(v: [i64; 12]) -> Scores {
        Scores {
            inbound: v[0],
            outbound: v[1],
            inbound_detect: v[2],
            outbound_detect: v[3],
            sql_injection: v[4],
            xss: v[5],
            rfi: v[6],
            lfi: v[7],
            rce: v[8],
            php: v[9],
            http: v[10],
            session: v[11],
        }
    }
}

/// Bytes as text that is safe to log: control and non-ASCII bytes as `\xhh`, quotes escaped, cut at `limit`.
pub fn printable(bytes: &[u8], limit: usize) -> String {
    let mut out = String::with_capacity(bytes.len().min(limit));
    for &b in bytes {
        if out.len() >= limit {
            out.push('…');
            break;
        }
        match b {
            b'"' => out.push_str("\\\""),
            0x20..=0x7e => out.push(char::from(b)),
            _ => out.push_str(&format!("\\x{b:02x}")),
        }
    }
    out
}
