//! Text to expression. Every fault has its exact place in the text.
//!
//! Bounded on purpose: an expression of 4 KiB and 32 levels is already a program in disguise, and evaluation recurses
//! as deep as the text nests.

use super::var::Var;
use super::{Node, Operand, Order, Pattern, Test};
use crate::nets::Nets;
use crate::short::Bad;
use crate::units::Cidr;
use std::ops::Range;

const MAX_LENGTH: usize = 4096;
const MAX_DEPTH: usize = 32;
/// Compiled size of one regular expression, in bytes.
const MAX_REGEX: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind<'t> {
    Word(&'t str),
    Number(f64),
    Text(&'t str),
    Sign(&'t str),
    End,
}

#[derive(Debug, Clone, Copy)]
struct Token<'t> {
    kind: Kind<'t>,
    from: usize,
    to: usize,
}

impl Token<'_> {
    fn at(&self) -> Range<usize> {
        self.from..self.to
    }
}

pub(super) fn parse(text: &str) -> Result<Node, Bad> {
    if text.len() > MAX_LENGTH {
        return Err(Bad::new(
            0..text.len(),
            format!("an expression of {} bytes, the most is {MAX_LENGTH}", text.len()),
        ));
    }
    let mut parser = Parser { text, tokens: tokens(text)?, next: 0 };
    let node = parser.any_of(0)?;
    match parser.peek().kind {
        Kind::End => Ok(node),
        _ => Err(parser.expected("`and`, `or` or the end")),
    }
}

/// A number as the language writes it: no exponent, no `inf`.
pub(super) fn number(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = digits.starts_with(|c: char| c.is_ascii_digit()) && digits.len() <= 32;
    if plain && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') { text.parse().ok() } else { None }
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>, Bad> {
    let mut all = vec![];
    let mut from = 0;
    while let Some(c) = text[from..].chars().next() {
        if c.is_whitespace() {
            from += c.len_utf8();
            continue;
        }
        let (kind, to) = token(text, from, c)?;
        all.push(Token { kind, from, to });
        from = to;
    }
    all.push(Token { kind: Kind::End, from: text.len(), to: text.len() });
    Ok(all)
}

fn token(text: &str, from: usize, c: char) -> Result<(Kind<'_>, usize), Bad> {
    let rest = &text[from..];
    let sign = |len: usize| Ok((Kind::Sign(&rest[..len]), from + len));
    match c {
        '\'' | '"' => match rest[1..].find(c) {
            Some(len) => Ok((Kind::Text(&rest[1..=len]), from + len + 2)),
            None => Err(Bad::new(from..text.len(), format!("text without its closing {c}"))),
        },
        '(' | ')' | '[' | ']' | ',' => sign(1),
        _ if ["==", "!=", "<=", ">="].iter().any(|s| rest.starts_with(s)) => sign(2),
        '<' | '>' => sign(1),
        '=' => Err(Bad::new(from..from + 1, "found `=`, expected `==`")),
        '&' | '|' | '!' => {
            let len = if rest[1..].starts_with(c) { 2 } else { 1 };
            let word = match c {
                '&' => "and",
                '|' => "or",
                _ => "not",
            };
            Err(Bad::new(from..from + len, format!("found `{}`, expected `{word}`", &rest[..len])))
        }
        c if c.is_ascii_alphanumeric() || c == '-' || c == '_' => {
            let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let len = rest.find(|c: char| !word(c)).unwrap_or(rest.len());
            let found = &rest[..len];
            if !c.is_ascii_digit() && c != '-' {
                return Ok((Kind::Word(found), from + len));
            }
            let n = number(found).ok_or_else(|| {
                Bad::new(from..from + len, format!("`{found}` is not a number; text stands in quotes: '{found}'"))
            })?;
            Ok((Kind::Number(n), from + len))
        }
        _ => Err(Bad::new(from..from + c.len_utf8(), format!("found `{c}`, which means nothing here"))),
    }
}

struct Parser<'t> {
    text: &'t str,
    tokens: Vec<Token<'t>>,
    next: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Token<'t> {
        self.tokens[self.next]
    }
    fn take(&mut self) -> Token<'t> {
        let token = self.peek();
        if token.kind != Kind::End {
            self.next += 1;
        }
        token
    }
    fn takes(&mut self, kind: Kind) -> bool {
        let found = self.peek().kind == kind;
        if found {
            self.take();
        }
        found
    }
    fn expected(&self, what: &str) -> Bad {
        let token = self.peek();
        match token.kind {
            Kind::End => Bad::new(token.at(), format!("the expression ends here, expected {what}")),
            _ => Bad::new(token.at(), format!("found `{}`, expected {what}", &self.text[token.at()])),
        }
    }

    fn any_of(&mut self, depth: usize) -> Result<Node, Bad> {
        self.joined(Kind::Word("or"), Node::Any, |p| p.joined(Kind::Word("and"), Node::All, |p| p.unary(depth)))
    }

    /// One part, or several with `word` between them.
    fn joined(
        &mut self,
        word: Kind,
        make: impl FnOnce(Vec<Node>) -> Node,
        mut part: impl FnMut(&mut Self) -> Result<Node, Bad>,
    ) -> Result<Node, Bad> {
        let first = part(self)?;
        if self.peek().kind != word {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.takes(word) {
            parts.push(part(self)?);
        }
        Ok(make(parts))
    }

    fn unary(&mut self, depth: usize) -> Result<Node, Bad> {
        if depth == MAX_DEPTH {
            return Err(Bad::new(self.peek().at(), format!("nested deeper than {MAX_DEPTH} levels")));
        }
        if self.takes(Kind::Word("not")) {
            return Ok(Node::Not(Box::new(self.unary(depth + 1)?)));
        }
        if self.takes(Kind::Sign("(")) {
            let inner = self.any_of(depth + 1)?;
            return if self.takes(Kind::Sign(")")) { Ok(inner) } else { Err(self.expected("`)`")) };
        }
        self.test()
    }

    fn test(&mut self) -> Result<Node, Bad> {
        let place = self.peek();
        let left = self.operand("a variable")?;
        let sign = self.peek();
        let order = match sign.kind {
            Kind::Sign("==") => Order::Equal,
            Kind::Sign("!=") => Order::Unequal,
            Kind::Sign("<") => Order::Less,
            Kind::Sign("<=") => Order::LessOrEqual,
            Kind::Sign(">") => Order::Greater,
            Kind::Sign(">=") => Order::GreaterOrEqual,
            _ => return self.words(place, left),
        };
        self.take();
        let at = self.peek();
        let right = self.operand("a value")?;
        if !matches!(left, Operand::Var(_)) && !matches!(right, Operand::Var(_)) {
            return Err(Bad::new(place.from..at.to, "compares two constants"));
        }
        fits(&left, &right, at)?;
        fits(&right, &left, place)?;
        Ok(Node::Test(Box::new(Test::Compare(left, order, right))))
    }

    fn words(&mut self, place: Token, left: Operand) -> Result<Node, Bad> {
        let Operand::Var(var) = &left else {
            return Err(Bad::new(place.at(), "a constant alone; expected a comparison with a variable"));
        };
        let Kind::Word(word @ ("in" | "has" | "contains" | "starts" | "ends" | "matches")) = self.peek().kind else {
            return Ok(Node::Test(Box::new(Test::Present(var.clone()))));
        };
        self.take();
        let at = self.peek();
        let test = match word {
            "in" if *var == Var::Ip => self.blocks()?,
            "in" => {
                let all = self.list(var)?;
                Test::In(left, all)
            }
            "matches" => Test::Matches(left, pattern(at, self.literal("a regular expression in quotes")?)?),
            _ => {
                let right = self.operand("a value")?;
                match word {
                    "has" => Test::Has(left, right),
                    "contains" => Test::Contains(left, right),
                    "starts" => Test::Starts(left, right),
                    _ => Test::Ends(left, right),
                }
            }
        };
        Ok(Node::Test(Box::new(test)))
    }

    fn operand(&mut self, what: &str) -> Result<Operand, Bad> {
        let token = self.peek();
        let operand = match token.kind {
            Kind::Text(text) => Operand::Text(text.into()),
            Kind::Number(n) => Operand::Number(n),
            Kind::Word("and" | "or" | "not" | "in" | "has" | "contains" | "starts" | "ends" | "matches") => {
                return Err(self.expected(what));
            }
            Kind::Word(name) => Operand::Var(Var::parse(name).map_err(|bad| bad.shifted(token.from))?),
            _ => return Err(self.expected(what)),
        };
        self.take();
        Ok(operand)
    }

    fn literal(&mut self, what: &str) -> Result<&'t str, Bad> {
        let Kind::Text(text) = self.peek().kind else { return Err(self.expected(what)) };
        self.take();
        Ok(text)
    }

    /// `'10.0.0.0/8'` or a list of these.
    fn blocks(&mut self) -> Result<Test, Bad> {
        let mut written = vec![];
        if self.peek().kind == Kind::Sign("[") {
            self.listed(|p| {
                written.push(p.block()?);
                Ok(())
            })?;
        } else {
            written.push(self.block()?);
        }
        Ok(Test::Within(Nets::new(&written), written))
    }

    fn block(&mut self) -> Result<Cidr, Bad> {
        let place = self.peek();
        let text = self.literal("an address block in quotes, such as '10.0.0.0/8'")?;
        text.parse().map_err(|bad: Bad| bad.shifted(place.from + 1))
    }

    fn list(&mut self, var: &Var) -> Result<Vec<Operand>, Bad> {
        if self.peek().kind != Kind::Sign("[") {
            return Err(self.expected("a list such as ['a', 'b']"));
        }
        let left = Operand::Var(var.clone());
        let mut items = vec![];
        self.listed(|p| {
            let at = p.peek();
            if matches!(at.kind, Kind::Word(_)) {
                return Err(p.expected("text in quotes or a number"));
            }
            let item = p.operand("text in quotes or a number")?;
            fits(&left, &item, at)?;
            items.push(item);
            Ok(())
        })?;
        Ok(items)
    }

    /// `[item, item]`; an empty list would never be true and is a fault.
    fn listed(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), Bad>) -> Result<(), Bad> {
        self.take();
        loop {
            item(self)?;
            if self.takes(Kind::Sign("]")) {
                return Ok(());
            }
            if !self.takes(Kind::Sign(",")) {
                return Err(self.expected("`,` or `]`"));
            }
            if self.takes(Kind::Sign("]")) {
                return Ok(());
            }
        }
    }
}

/// A constant that its variable can never be is a fault, not a condition that is quietly never true.
fn fits(var: &Operand, constant: &Operand, at: Token) -> Result<(), Bad> {
    let Operand::Var(var) = var else { return Ok(()) };
    match constant {
        Operand::Text(text) => {
            let inner = at.from + 1..at.to.max(at.from + 2) - 1;
            if *var == Var::Ip && text.parse::<std::net::IpAddr>().is_err() {
                let hint = if text.contains('/') { "; a block is asked for with `in`" } else { "" };
                return Err(Bad::new(inner, format!("`{text}` is not an address{hint}")));
            }
            if var.is_number() {
                return Err(Bad::new(at.at(), format!("`{var}` is a number, found text")));
            }
            match var.domain() {
                Some(known) if !known.contains(&text.as_str()) => {
                    Err(Bad::new(inner, format!("`{var}` is never `{text}`, only one of {}", known.join(", "))))
                }
                _ => Ok(()),
            }
        }
        Operand::Number(_) if *var == Var::Ip || var.domain().is_some() => {
            Err(Bad::new(at.at(), format!("`{var}` is text, found a number")))
        }
        _ => Ok(()),
    }
}

fn pattern(at: Token, text: &str) -> Result<Pattern, Bad> {
    let inner = at.from + 1..at.from + 1 + text.len();
    regex::RegexBuilder::new(text).size_limit(MAX_REGEX).dfa_size_limit(MAX_REGEX).build().map(Pattern).map_err(|e| {
        let why = e.to_string();
        // The last line says what is wrong; those above draw the pattern over several lines.
        let last = why.lines().last().unwrap_or_default().trim();
        Bad::new(inner, format!("regular expression: {}", last.strip_prefix("error: ").unwrap_or(last)))
    })
}
