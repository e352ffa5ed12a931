//! Regular expressions as rule writers mean them (PCRE), rewritten for the linear-time engine.
//!
//! The surprise is what compiles and means something else: `\x{c2}` is a code point there and a byte here, `\<` is a word
//! boundary there and a character here, `[a&&b]` and `[[a]` are set operations there. All of it is rewritten; what cannot
//! be rewritten (looking around, referring back) is an error here and goes to the backtracker.

/// The same expression in the syntax of the `regex` crate, for byte mode.
pub fn translate(source: &str) -> Result<String> {
    Translator { chars: source.chars().collect(), at: 0, out: String::with_capacity(source.len() + 16) }.run()
}

/// Why an expression cannot be rewritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Untranslatable {
    /// It looks around, refers back or gives nothing back: only backtracking does that.
    Backtracks(&'static str),
    Invalid(String),
}

impl std::fmt::Display for Untranslatable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Untranslatable::Backtracks(what) => write!(f, "{what} needs backtracking"),
            Untranslatable::Invalid(reason) => f.write_str(reason),
        }
    }
}

impl From<&str> for Untranslatable {
    fn from(reason: &str) -> Self {
        Untranslatable::Invalid(reason.to_owned())
    }
}

type Result<T> = std::result::Result<T, Untranslatable>;

struct Translator {
    chars: Vec<char>,
    at: usize,
    out: String,
}

impl Translator {
    fn run(mut self) -> Result<String> {
        while let Some(c) = self.next() {
            match c {
                '\\' => self.escape(false)?,
                '[' => self.class()?,
                '(' => self.group()?,
                '{' if !self.is_repetition() => self.out.push_str("\\{"),
                '*' | '+' | '?' => self.quantifier(c)?,
                '{' => {
                    self.out.push('{');
                    while let Some(d) = self.next() {
                        // PCRE knows `{,n}` only as text; `is_repetition` said no to it.
                        self.out.push(d);
                        if d == '}' {
                            break;
                        }
                    }
                    self.no_possessive()?;
                }
                '}' => self.out.push_str("\\}"),
                ']' => self.out.push_str("\\]"),
                _ => self.literal(c),
            }
        }
        Ok(self.out)
    }

    fn next(&mut self) -> Option<char> {
        let c = self.chars.get(self.at).copied();
        self.at += usize::from(c.is_some());
        c
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    /// A character as its bytes: the engine runs without Unicode.
    fn literal(&mut self, c: char) {
        if c.is_ascii() {
            self.out.push(c);
            return;
        }
        let mut buffer = [0; 4];
        let bytes = c.encode_utf8(&mut buffer).as_bytes();
        self.out.push_str("(?:");
        for b in bytes {
            self.out.push_str(&format!("\\x{b:02x}"));
        }
        self.out.push(')');
    }

    fn quantifier(&mut self, c: char) -> Result<()> {
        self.out.push(c);
        self.no_possessive()
    }

    fn no_possessive(&mut self) -> Result<()> {
        match self.peek() {
            Some('+') => Err(Untranslatable::Backtracks("a possessive quantifier")),
            Some('?') => {
                self.at += 1;
                self.out.push('?');
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// After `{`: digits, optionally a comma and digits, and `}`.
    fn is_repetition(&self) -> bool {
        let rest = &self.chars[self.at..];
        let Some(end) = rest.iter().position(|c| *c == '}') else { return false };
        let inner: String = rest[..end].iter().collect();
        let (low, high) = inner.split_once(',').unwrap_or((&inner, "0"));
        let digits = |s: &str| s.chars().all(|c| c.is_ascii_digit());
        !low.is_empty() && digits(low) && digits(high)
    }

    fn group(&mut self) -> Result<()> {
        self.out.push('(');
        if self.peek() != Some('?') {
            return Ok(());
        }
        let rest: String = self.chars[self.at..].iter().take(4).collect();
        if ["?=", "?!", "?<=", "?<!"].iter().any(|p| rest.starts_with(p)) {
            return Err(Untranslatable::Backtracks("looking around"));
        }
        if rest.starts_with("?>") {
            return Err(Untranslatable::Backtracks("an atomic group"));
        }
        if rest.starts_with("?#") {
            self.out.pop();
            while let Some(c) = self.next() {
                if c == ')' {
                    break;
                }
            }
            return Ok(());
        }
        Ok(())
    }

    fn class(&mut self) -> Result<()> {
        self.out.push('[');
        if self.peek() == Some('^') {
            self.at += 1;
            self.out.push('^');
        }
        let mut first = true;
        let mut before = '\0';
        while let Some(c) = self.next() {
            match c {
                ']' if !first => {
                    self.out.push(']');
                    return Ok(());
                }
                '[' if self.peek() == Some(':') => self.posix(),
                '\\' => self.escape(true)?,
                // Set operations and nested classes of the other syntax are plain characters in this one.
                '[' | ']' | '~' | '&' => {
                    self.out.push('\\');
                    self.out.push(c);
                }
                '-' if first || before == '-' || self.peek() == Some(']') || self.peek() == Some('-') => {
                    self.out.push_str("\\-")
                }
                '-' if self.after_set() || self.before_set() => self.out.push_str("\\-"),
                c if !c.is_ascii() => {
                    // A class holds bytes: PCRE without UTF mode sees each byte of the character.
                    let mut buffer = [0; 4];
                    for b in c.encode_utf8(&mut buffer).as_bytes() {
                        self.out.push_str(&format!("\\x{b:02x}"));
                    }
                }
                _ => self.out.push(c),
            }
            before = c;
            first = false;
        }
        Err("found no closing ]".into())
    }

    /// `\w-x`: after a set, the dash is a character.
    fn after_set(&self) -> bool {
        let mut tail = self.out.chars().rev();
        let (last, escape) = (tail.next(), tail.next());
        let doubled = tail.next() == Some('\\');
        escape == Some('\\') && !doubled && matches!(last, Some('w' | 'W' | 'd' | 'D' | 's' | 'S'))
    }

    /// `x-\w`: before a set, too.
    fn before_set(&self) -> bool {
        self.peek() == Some('\\')
            && matches!(self.chars.get(self.at + 1), Some('w' | 'W' | 'd' | 'D' | 's' | 'S' | 'h' | 'H' | 'v' | 'V'))
    }

    fn posix(&mut self) {
        self.out.push('[');
        while let Some(c) = self.next() {
            self.out.push(c);
            if c == ']' {
                break;
            }
        }
    }

    fn escape(&mut self, in_class: bool) -> Result<()> {
        let Some(c) = self.next() else { return Err("found \\ at the end".into()) };
        match c {
            'x' => self.hex(),
            '0'..='7' if in_class || c == '0' => self.octal(c),
            '1'..='9' => return Err(Untranslatable::Backtracks("referring back")),
            'd' | 'D' | 's' | 'S' | 'w' | 'W' | 'n' | 'r' | 't' | 'f' | 'a' => {
                self.out.push('\\');
                self.out.push(c);
            }
            'b' if in_class => self.out.push_str("\\x08"),
            'b' | 'B' | 'A' | 'z' if !in_class => {
                self.out.push('\\');
                self.out.push(c);
            }
            'Z' if !in_class => self.out.push_str("(?:\\n?\\z)"),
            'e' => self.out.push_str("\\x1b"),
            'v' if in_class => self.out.push_str("\\n\\x0b\\x0c\\r\\x85"),
            'v' => self.out.push_str("[\\n\\x0b\\x0c\\r\\x85]"),
            'h' if in_class => self.out.push_str("\\t \\xa0"),
            'h' => self.out.push_str("[\\t \\xa0]"),
            'H' if !in_class => self.out.push_str("[^\\t \\xa0]"),
            'V' if !in_class => self.out.push_str("[^\\n\\x0b\\x0c\\r\\x85]"),
            'R' if !in_class => self.out.push_str("(?:\\r\\n|[\\n\\x0b\\x0c\\r\\x85])"),
            'N' if !in_class => self.out.push_str("[^\\n]"),
            'Q' => {
                while let Some(c) = self.next() {
                    if c == '\\' && self.peek() == Some('E') {
                        self.at += 1;
                        break;
                    }
                    self.punctuation(c);
                }
            }
            'E' => {}
            c if c.is_ascii_alphanumeric() => return Err(Untranslatable::Invalid(format!("unknown escape \\{c}"))),
            c => self.punctuation(c),
        }
        Ok(())
    }

    fn punctuation(&mut self, c: char) {
        match c {
            '<' | '>' => self.out.push(c),
            c if c.is_ascii_punctuation() => {
                self.out.push('\\');
                self.out.push(c);
            }
            c => self.literal(c),
        }
    }

    /// `\xhh` and `\x{hh}`: one byte in both.
    fn hex(&mut self) {
        let mut digits = String::new();
        if self.peek() == Some('{') {
            self.at += 1;
            while let Some(c) = self.next().filter(|c| *c != '}') {
                digits.push(c);
            }
        } else {
            while digits.len() < 2 && self.peek().is_some_and(|c| c.is_ascii_hexdigit()) {
                digits.extend(self.next());
            }
        }
        let value = u32::from_str_radix(&digits, 16).unwrap_or(0);
        self.out.push_str(&format!("\\x{:02x}", value & 0xff));
    }

    fn octal(&mut self, first: char) {
        let mut value = first.to_digit(8).unwrap_or(0);
        for _ in 0..2 {
            let Some(d) = self.peek().and_then(|c| c.to_digit(8)) else { break };
            value = value * 8 + d;
            self.at += 1;
        }
        self.out.push_str(&format!("\\x{:02x}", value & 0xff));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_else_is_rewritten() {
        for (from, to) in [
            (r"\x{c2}", r"\xc2"),
            (r"\<a\>", "<a>"),
            (r"[[a&&b~~-]", r"[\[a\&\&b\~\~\-]"),
            (r"a{b}{2,3}", r"a\{b\}{2,3}"),
            (r"[\w-.]", r"[\w\-.]"),
            (r"[]a]", r"[\]a]"),
            (r"\/\-\%", r"\/\-\%"),
            (r"[\--9]", r"[\--9]"),
            (r"é", r"(?:\xc3\xa9)"),
            (r"\h\Z", r"[\t \xa0](?:\n?\z)"),
        ] {
            let got = translate(from).unwrap();
            assert_eq!(got, to, "{from}");
            regex::bytes::RegexBuilder::new(&got).unicode(false).build().unwrap();
        }
    }

    #[test]
    fn what_cannot_be_rewritten_is_an_error() {
        for source in [r"a(?=b)", r"(?<!a)b", r"(a)\1", r"a++", r"(?>a)"] {
            assert!(matches!(translate(source), Err(Untranslatable::Backtracks(_))), "{source}");
        }
        assert!(translate(r"\(?=[*+]").is_ok());
        assert!(matches!(translate(r"[a"), Err(Untranslatable::Invalid(_))));
    }
}
