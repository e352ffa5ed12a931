//! Conditions and values written in the configuration: `header.x-beta == '1' and ip in '10.0.0.0/8'`.
//!
//! Compiled once, evaluated per request without loops, I/O or panics, and total: a missing fact is no error. Everything
//! said of a missing fact is false, and `!=` is exactly `not ==`, so `header.x != 'a'` holds when there is no `x`.
//!
//! | Written | Holds when |
//! |---|---|
//! | `header.x` | it is there and not empty |
//! | `a == b`, `a != b` | equal as text, case-sensitive; as numbers if one side is a number |
//! | `<` `<=` `>` `>=` | as numbers if both sides read as numbers, else as text, byte by byte |
//! | `a in ['x', 'y', 3]` | equal to one of them |
//! | `ip in '10.0.0.0/8'`, `ip in ['…', '…']` | the client's address lies in a block |
//! | `a has 'x'` | `x` is one of the words of `a` (split at spaces and commas) or an element of a list |
//! | `contains` `starts` `ends` | that piece of text is there |
//! | `a matches '^v[0-9]+$'` | the regular expression is found; it is not anchored by itself |
//! | `not`, `and`, `or`, `( )` | binding in this order |
//!
//! Text stands in `'` or `"`; there are no escapes, so a text holds at most one of the two.
//! Facts: `method path path.NAME host scheme ip query.NAME header.NAME cookie.NAME route tls.sni tls.version cert.cn
//! cert.san cert.fingerprint time.hour time.weekday time.unix`, and after `auth` `jwt.CLAIM` (`jwt.realm_access.roles`
//! looks into tables), `key.id` and `key.LABEL`. Times are UTC, weekdays `mon` to `sun`. A header that
//! was sent on several lines is one text joined with `, `. `query.NAME` and `path.NAME` are percent-decoded here and
//! copied as sent by a [`Template`]; `path` stays in its canonical, encoded form.

mod key;
mod parse;
mod template;
mod var;

pub use key::Key;
pub use template::Template;
pub use var::{Value, Var};

use crate::cx::Cx;
use crate::head::RequestHead;
use crate::nets::Nets;
use crate::short::Bad;
use crate::units::{Cidr, Unit, unit};
use regex::Regex;
use smol_str::SmolStr;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;

/// What an expression looks at.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub head: &'a RequestHead,
    pub cx: &'a Cx,
}

/// A compiled expression. Prints as it was written.
#[derive(Clone, PartialEq)]
pub struct Expr {
    node: Node,
    text: SmolStr,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Test(Box<Test>),
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Present(Var),
    Compare(Operand, Order, Operand),
    In(Operand, Vec<Operand>),
    /// The client's address; the blocks as written are kept for printing.
    Within(Nets, Vec<Cidr>),
    Has(Operand, Operand),
    Contains(Operand, Operand),
    Starts(Operand, Operand),
    Ends(Operand, Operand),
    Matches(Operand, Pattern),
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Var(Var),
    Text(SmolStr),
    Number(f64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Order {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone)]
struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Expr {
    pub fn parse(text: &str) -> Result<Expr, Bad> {
        Ok(Expr { node: parse::parse(text)?, text: text.trim().into() })
    }

    /// Does it hold for this request?
    pub fn test(&self, view: &View) -> bool {
        self.node.test(view)
    }

    /// The value of a lone variable; of anything else, whether it holds.
    pub fn value<'a>(&self, view: &View<'a>) -> Value<'a> {
        match &self.node {
            Node::Test(test) => match &**test {
                Test::Present(var) => var.value(view),
                test => Value::Bool(test.test(view)),
            },
            node => Value::Bool(node.test(view)),
        }
    }

    /// Every fact that it looks at.
    pub fn vars(&self) -> Vec<&Var> {
        let mut all = vec![];
        self.node.vars(&mut all);
        all
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Unit for Expr {
    const FORM: &'static str = "a condition such as \"header.x-beta == '1'\"";
    const PATTERN: &'static str = ".";
    fn parse(text: &str) -> Result<Expr, Bad> {
        Expr::parse(text)
    }
}
unit!(Expr, "Expr");

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expr({})", self.text)
    }
}

impl Node {
    fn test(&self, view: &View) -> bool {
        match self {
            Node::All(parts) => parts.iter().all(|p| p.test(view)),
            Node::Any(parts) => parts.iter().any(|p| p.test(view)),
            Node::Not(part) => !part.test(view),
            Node::Test(test) => test.test(view),
        }
    }

    fn vars<'e>(&'e self, all: &mut Vec<&'e Var>) {
        match self {
            Node::All(parts) | Node::Any(parts) => parts.iter().for_each(|p| p.vars(all)),
            Node::Not(part) => part.vars(all),
            Node::Test(test) => test.vars(all),
        }
    }
}

impl Test {
    fn test(&self, view: &View) -> bool {
        match self {
            Test::Present(var) => present(&var.value(view)),
            Test::Compare(a, order, b) => order.holds(&a.value(view), &b.value(view)),
            Test::In(a, all) => {
                let a = a.value(view);
                all.iter().any(|b| equal(&a, &b.value(view)))
            }
            Test::Within(nets, _) => nets.contains(view.cx.ip),
            Test::Has(a, b) => has(&a.value(view), &b.value(view)),
            Test::Contains(a, b) => both(a, b, view, |a, b| a.contains(b)),
            Test::Starts(a, b) => both(a, b, view, |a, b| a.starts_with(b)),
            Test::Ends(a, b) => both(a, b, view, |a, b| a.ends_with(b)),
            Test::Matches(a, pattern) => text(&a.value(view)).is_some_and(|t| pattern.0.is_match(&t)),
        }
    }
}

impl Test {
    fn vars<'e>(&'e self, all: &mut Vec<&'e Var>) {
        match self {
            Test::Present(var) => all.push(var),
            Test::In(a, list) => all.extend(std::iter::once(a).chain(list).filter_map(Operand::var)),
            Test::Within(..) => {}
            Test::Compare(a, _, b) | Test::Has(a, b) | Test::Contains(a, b) | Test::Starts(a, b) | Test::Ends(a, b) => {
                all.extend([a, b].into_iter().filter_map(Operand::var))
            }
            Test::Matches(a, _) => all.extend(a.var()),
        }
    }
}

impl Operand {
    fn var(&self) -> Option<&Var> {
        match self {
            Operand::Var(var) => Some(var),
            Operand::Text(_) | Operand::Number(_) => None,
        }
    }

    fn value<'a>(&'a self, view: &View<'a>) -> Value<'a> {
        match self {
            Operand::Var(var) => var.value(view),
            Operand::Text(text) => Value::Text(Cow::Borrowed(text)),
            Operand::Number(n) => Value::Number(*n),
        }
    }
}

impl Order {
    fn holds(self, a: &Value, b: &Value) -> bool {
        match self {
            Order::Equal => equal(a, b),
            Order::Unequal => !equal(a, b),
            Order::Less => order(a, b) == Some(Ordering::Less),
            Order::LessOrEqual => matches!(order(a, b), Some(Ordering::Less | Ordering::Equal)),
            Order::Greater => order(a, b) == Some(Ordering::Greater),
            Order::GreaterOrEqual => matches!(order(a, b), Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

fn present(value: &Value) -> bool {
    match value {
        Value::Missing => false,
        Value::Text(t) => !t.is_empty(),
        Value::List(l) => !l.is_empty(),
        Value::Bool(b) => *b,
        Value::Number(_) | Value::Ip(_) => true,
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Missing, _) | (_, Value::Missing) => false,
        (Value::Number(_), _) | (_, Value::Number(_)) => number(a).zip(number(b)).is_some_and(|(a, b)| a == b),
        (Value::Ip(ip), Value::Text(t)) | (Value::Text(t), Value::Ip(ip)) => {
            t.parse::<IpAddr>().is_ok_and(|t| t.to_canonical() == *ip)
        }
        (Value::Bool(b), Value::Text(t)) | (Value::Text(t), Value::Bool(b)) => t == if *b { "true" } else { "false" },
        _ => a == b,
    }
}

fn order(a: &Value, b: &Value) -> Option<Ordering> {
    if let Some((a, b)) = number(a).zip(number(b)) {
        return a.partial_cmp(&b);
    }
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
        (Value::Ip(a), Value::Ip(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

fn has(a: &Value, b: &Value) -> bool {
    let Some(b) = text(b) else { return false };
    match a {
        Value::List(all) => all.iter().any(|item| *item == *b),
        _ => text(a).is_some_and(|a| a.split([' ', ',', '\t']).any(|word| !word.is_empty() && word == b)),
    }
}

fn both(a: &Operand, b: &Operand, view: &View, holds: impl Fn(&str, &str) -> bool) -> bool {
    let (a, b) = (a.value(view), b.value(view));
    text(&a).zip(text(&b)).is_some_and(|(a, b)| holds(&a, &b))
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => Some(*n),
        Value::Text(t) => parse::number(t),
        _ => None,
    }
}

fn text<'v>(value: &'v Value) -> Option<Cow<'v, str>> {
    match value {
        Value::Text(t) => Some(Cow::Borrowed(t)),
        Value::Number(n) => Some(n.to_string().into()),
        Value::Ip(ip) => Some(ip.to_string().into()),
        Value::Missing | Value::List(_) | Value::Bool(_) => None,
    }
}

#[cfg(test)]
mod tests;
