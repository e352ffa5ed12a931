//! `[keys.NAME]`: API keys as an identity.
//!
//! The file holds no keys, only what SHA-256 makes of them, so that who reads it cannot use it:
//!
//! ```text
//! acme:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b plan=gold expires=2027-01-01T00:00:00Z
//! ```
//! `portcullis key new --id acme` prints a key, once, and its line. A plain hash is enough only because such a key is
//! 256 random bits: a password in its place could be guessed from the file.

use super::credential::{Found, Place};
use super::jwt::Why;
use super::{Read, Verdict};
use crate::filter::BuildError;
use crate::head::RequestHead;
use crate::identity::{Fact, Facts, Identity, Kind};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use http::HeaderName;
use serde_spanned::Spanned;
use smol_str::SmolStr;
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;

/// API keys: which file lists them, where they stand.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "keys"))]
pub struct Conf {
    /// The path of the list: `id:SHA-256 [label=value]… [expires=2027-01-01T00:00:00Z]` on each line; `portcullis key
    /// new` makes one.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub file: Spanned<String>,
    /// Where the key stands: `"header.X-API-Key"` (the default), `"header"` (`Authorization: Bearer`), `"cookie.NAME"`,
    /// `"query.NAME"`.
    #[serde(default = "api_key")]
    pub from: Place,
    /// Hand the key on to the upstream. Default: no, so that who runs the upstream cannot use it elsewhere.
    #[serde(default)]
    pub forward: bool,
}

fn api_key() -> Place {
    Place::Header(HeaderName::from_static("x-api-key"))
}

/// The largest file.
const MAX_FILE: u64 = 64 << 20;
/// The longest key.
const MAX_KEY: usize = 1024;
/// So many wrong lines are told.
const MAX_FAULTS: usize = 5;

type Hash = [u8; 32];

/// A source of identities, ready to look up.
pub struct Keys {
    entries: HashMap<[u8; 8], Entry, ahash::RandomState>,
    pub(super) from: Place,
    pub(super) forward: bool,
}

struct Entry {
    hash: Hash,
    /// Milliseconds since the Unix epoch.
    expires: u64,
    identity: Arc<Identity>,
}

impl Keys {
    pub fn build(name: &str, conf: &Conf, read: Read) -> Result<Keys, Vec<BuildError>> {
        let bytes = read(&conf.file, MAX_FILE).map_err(|fault| vec![fault])?;
        let fault = |why: String| BuildError::new(why).at(conf.file.span());
        let text = String::from_utf8(bytes).map_err(|_| vec![fault("not UTF-8".into())])?;
        let mut entries: HashMap<_, Entry, _> = HashMap::default();
        let mut faults = vec![];
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = match entry(name, line) {
                Err(why) => why,
                Ok(new) => match entries.entry(prefix(&new.hash)) {
                    Slot::Occupied(_) => "this key is there already",
                    Slot::Vacant(slot) => {
                        slot.insert(new);
                        continue;
                    }
                },
            };
            // The line is not shown: somebody may have written a key into it.
            faults.push(format!("line {}: {wrong}", n + 1));
            if faults.len() == MAX_FAULTS {
                break;
            }
        }
        if faults.is_empty() {
            Ok(Keys { entries, from: conf.from.clone(), forward: conf.forward })
        } else {
            Err(vec![fault(faults.join("; "))])
        }
    }

    pub(super) fn judge(&self, head: &RequestHead, wall: u64) -> Verdict {
        let bad = |reason: &'static str, told| Verdict::Bad(Why { reason: reason.into(), told });
        let key = match self.from.find(head) {
            Found::Nothing => return Verdict::Absent,
            Found::Unclear(reason) => return bad(reason, "the key is not valid"),
            Found::One(key) if key.len() > MAX_KEY => return bad("a key that is too long", "the key is not valid"),
            Found::One(key) => key,
        };
        match self.find(key.as_bytes()) {
            None => bad("no such key", "the key is not valid"),
            Some(entry) if wall >= entry.expires => bad("the key has expired", "the key has expired"),
            Some(entry) => Verdict::Good(entry.identity.clone()),
        }
    }

    /// How long the search takes tells of the hash's first bytes at most, and nobody can choose those; the rest is
    /// compared in constant time.
    fn find(&self, key: &[u8]) -> Option<&Entry> {
        let hash = hash(key);
        let entry = self.entries.get(&prefix(&hash))?;
        verify_slices_are_equal(&entry.hash, &hash).ok()?;
        Some(entry)
    }
}

fn hash(key: &[u8]) -> Hash {
    digest(&SHA256, key).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn prefix(hash: &Hash) -> [u8; 8] {
    *hash.first_chunk().expect("8 of 32 bytes")
}

/// The file's line of a key.
pub fn line(id: &str, key: &str) -> String {
    hash(key.as_bytes()).iter().fold(format!("{id}:"), |line, b| format!("{line}{b:02x}"))
}

/// An id or a label: what fits into a header, a log and a line.
pub fn is_word(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && !b":=,#".contains(&b))
}

fn entry(source: &str, line: &str) -> Result<Entry, &'static str> {
    let mut words = line.split_ascii_whitespace();
    let (id, hex) = words.next().and_then(|w| w.split_once(':')).ok_or("expected id:SHA-256")?;
    if !is_word(id) {
        return Err("the id: expected 1 to 128 printable characters, without : = , and #");
    }
    let hash = unhex(hex).ok_or("the hash: expected 64 hexadecimal digits, the SHA-256 of the key")?;
    let mut facts = vec![("id".into(), Fact::Text(id.into()))];
    let mut expires = u64::MAX;
    for word in words {
        let (name, value) = word.split_once('=').ok_or("expected label=value")?;
        if name == "expires" {
            expires = timestamp(value).ok_or("expires: expected a date such as 2027-01-01T00:00:00Z")? * 1000;
            continue;
        }
        if !is_word(name) || value.is_empty() {
            return Err("expected label=value");
        }
        if facts.iter().any(|(n, _): &(SmolStr, Fact)| n == name) {
            return Err("a label stands twice");
        }
        facts.push((name.into(), Fact::Text(value.into())));
    }
    let facts = Facts::new(facts);
    let identity = Identity { source: source.into(), kind: Kind::Key, facts, told: [].into() };
    Ok(Entry { hash, expires, identity: Arc::new(identity) })
}

fn unhex(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    let digit = |b: u8| (b as char).to_digit(16);
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(hash)
}

/// RFC 3339 to seconds since the Unix epoch; nothing before it.
fn timestamp(text: &str) -> Option<u64> {
    let number = |from: usize, len: usize| {
        let digits = text.get(from..from + len).filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
        digits.parse::<i64>().ok()
    };
    let sign = |at: usize, one_of: &[u8]| text.as_bytes().get(at).is_some_and(|b| one_of.contains(b)).then_some(());
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    for (at, one_of) in [(4, &b"-"[..]), (7, b"-"), (10, b"Tt "), (13, b":"), (16, b":")] {
        sign(at, one_of)?;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = *days.get(usize::try_from(month - 1).ok()?)?;
    if !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text[19..].strip_prefix('.').map_or(&text[19..], |f| f.trim_start_matches(|c: char| c.is_ascii_digit()));
    let offset = match rest.as_bytes() {
        b"Z" | b"z" => 0,
        [way @ (b'+' | b'-'), _, _, b':', _, _] => {
            let at = text.len() - 5;
            let (hours, minutes) = (number(at, 2)?, number(at + 3, 2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 3600 + minutes * 60) * if *way == b'+' { 1 } else { -1 }
        }
        _ => return None,
    };
    let before = year - 1;
    let ordinal: i64 = days[..month as usize - 1].iter().sum::<i64>() + day;
    // Days from 0001-01-01 to the epoch: 719162.
    let day = before * 365 + before / 4 - before / 100 + before / 400 + ordinal - 1 - 719_162;
    u64::try_from(day * 86_400 + hour * 3600 + minute * 60 + second - offset).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn build(file: &str) -> Result<Keys, Vec<String>> {
        let conf: Conf = toml::from_str("file = \"keys\"").unwrap();
        let read = |_: &Spanned<String>, _: u64| Ok(file.as_bytes().to_vec());
        Keys::build("partners", &conf, &read).map_err(|all| all.into_iter().map(|f| f.why).collect())
    }

    fn judge(keys: &Keys, key: &str, wall: u64) -> Result<String, String> {
        let mut head = RequestHead::build("GET", b"/", None).unwrap();
        head.append_header("x-api-key", key).unwrap();
        match keys.judge(&head, wall) {
            Verdict::Absent => Err("absent".into()),
            Verdict::Bad(why) => Err(why.reason.into_owned()),
            Verdict::Good(identity) => Ok(identity.facts.get("id").and_then(Fact::text).unwrap().into_owned()),
        }
    }

    #[test]
    fn keys_are_found_by_their_hash() {
        let text = format!(
            "# partners\n\n{} plan=gold team=a,b\n{} expires=2024-01-01T00:00:00Z\n",
            line("acme", "k-1"),
            line("old", "k-2")
        );
        let keys = build(&text).unwrap();
        assert_eq!(judge(&keys, "k-1", 0), Ok("acme".into()));
        assert_eq!(judge(&keys, "k-2", 1_704_067_199_999), Ok("old".into()));
        assert_eq!(judge(&keys, "k-2", 1_704_067_200_000), Err("the key has expired".into()));
        assert_eq!(judge(&keys, "k-3", 0), Err("no such key".into()));
        assert_eq!(judge(&keys, "K-1", 0), Err("no such key".into()));
        assert_eq!(judge(&keys, "", 0), Err("an empty credential".into()));
        assert_eq!(judge(&keys, &"k".repeat(1025), 0), Err("a key that is too long".into()));
        let hash = line("", "k-1")[1..].to_owned();
        assert_eq!(judge(&keys, &hash, 0), Err("no such key".into()), "the hash is no key");
        let entry = keys.find(b"k-1").unwrap();
        assert_eq!(entry.identity.facts.get("plan"), Some(&Fact::Text("gold".into())));
    }

    #[test]
    fn the_same_first_bytes_are_not_the_same_key() {
        let mut hash = hash(b"k-1");
        hash[31] ^= 1;
        let hex: String = hash.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(judge(&build(&format!("a:{hex}")).unwrap(), "k-1", 0), Err("no such key".into()));
    }

    #[test]
    fn wrong_lines_are_told_with_their_number_and_never_shown() {
        let good = line("a", "k");
        for (text, why) in [
            ("secret-key", "line 1: expected id:SHA-256"),
            ("a:secret-key", "line 1: the hash: expected 64 hexadecimal digits, the SHA-256 of the key"),
            ("\n#\n:00", "line 3: the id: expected 1 to 128 printable characters, without : = , and #"),
            (&format!("{good} gold"), "line 1: expected label=value"),
            (&format!("{good} plan="), "line 1: expected label=value"),
            (&format!("{good} p=1 p=2"), "line 1: a label stands twice"),
            (&format!("{good} id=b"), "line 1: a label stands twice"),
            (&format!("{good} expires=soon"), "line 1: expires: expected a date such as 2027-01-01T00:00:00Z"),
            (&format!("{good}\n{}", line("b", "k")), "line 2: this key is there already"),
        ] {
            let faults = build(text).map(|_| ()).unwrap_err();
            assert_eq!(faults, [why], "{text}");
        }
        assert_eq!(build(&"x\n".repeat(100)).map(|_| ()).unwrap_err()[0].matches("line ").count(), MAX_FAULTS);
    }

    #[test]
    fn dates() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2024-02-29T12:30:45Z", Some(1_709_209_845)),
            ("2027-01-01T00:00:00.123+01:00", Some(1_798_758_000)),
            ("2000-03-01t00:00:00z", Some(951_868_800)),
            ("2023-02-29T00:00:00Z", None),
            ("2024-13-01T00:00:00Z", None),
            ("2024-00-01T00:00:00Z", None),
            ("2024-01-01T24:00:00Z", None),
            ("2024-01-01", None),
            ("2024-01-01T00:00:00", None),
            ("2024-01-01T00:00:00+1:00", None),
            ("1969-12-31T23:59:59Z", None),
            ("2024-01-01T00:00:00é", None),
        ] {
            assert_eq!(timestamp(text), seconds, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_file_is_read_or_refused(text in any::<String>(), line in "[a-z:=# 0-9]{0,90}") {
            let _ = build(&text);
            let _ = build(&line);
            let _ = timestamp(&text);
        }
        #[test]
        fn any_key_is_judged(key in "[ -~]{0,64}") {
            let keys = build(&line("a", "k")).unwrap();
            prop_assert_eq!(judge(&keys, &key, 0).is_ok(), key.trim() == "k" && key == "k");
        }
    }
}
