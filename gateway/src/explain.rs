//! `portcullis explain`: what a route is made of, and what becomes of a request, without serving anything.
//!
//! A request is taken through the same code that serves: the ingress of a house that has no listener and no log.

use crate::conf::{self, Options, did_you_mean};
use crate::destination::Destination;
use crate::exchange::Exchange;
use crate::house::House;
use crate::ingress;
use crate::log::{self, Logger};
use crate::metrics::Metrics;
use crate::route::Why;
use crate::table::{self, Route, Table};
use filters::cx::{Captures, Tls};
use filters::expr::View;
use filters::filter::Body;
use filters::head::RequestHead;
use http::Method;
use std::fmt::Write;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// The merged settings of a route, or of all, each with the line that wrote it.
pub fn settings(file: &Path, route: Option<&str>) -> Result<String, String> {
    let loaded = conf::load(file, &Options { without_secrets: true }).map_err(|faults| faults.to_string())?;
    let Some(route) = route else { return Ok(loaded.settings().to_string()) };
    match loaded.explain(route) {
        Some(settings) => Ok(settings.to_string()),
        None => {
            let known: Vec<_> = loaded.conf.route.keys().map(String::as_str).collect();
            let hint = did_you_mean(route, known.iter().copied());
            Err(format!(
                "no route is named `{route}`: {}",
                hint.unwrap_or_else(|| format!("known: {}", known.join(", ")))
            ))
        }
    }
}

/// Which route a request takes and why, which steps it passes, and where it ends.
pub fn request(file: &Path, line: &str, headers: &[String], ip: IpAddr) -> Result<String, String> {
    let read = conf::read(file, &Options::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let metrics = Arc::new(Metrics::new(1));
    let silent = log::Conf { to: log::To::Off, ..log::Conf::default() };
    let logger = Logger::start(&silent, 1, metrics.log_dropped.clone()).map_err(|e| e.to_string())?;
    let house = Arc::new(House::new(Arc::new(logger), metrics, runtime.handle().clone()));
    let built = table::build(read, &house.keep, &house.metrics, 1).map_err(|faults| faults.to_string())?;
    house.swap(Arc::new(built.0));
    let (head, secure) = parse(line, headers)?;
    Ok(tell(house, head, secure, ip))
}

/// `GET https://host/path` and header lines as a request's head, and whether it came over TLS.
fn parse(line: &str, headers: &[String]) -> Result<(RequestHead, bool), String> {
    let (method, url) = line.split_once(' ').ok_or_else(|| format!("\"{line}\": expected a method and a URL"))?;
    let (secure, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return Err(format!("\"{url}\": expected a URL that begins with http:// or https://")),
    };
    let (host, target) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let target = if target.is_empty() { "/" } else { target };
    let wrong = |e: Box<pingora::Error>| e.to_string();
    let mut head = RequestHead::build(method, target.as_bytes(), None).map_err(wrong)?;
    head.insert_header(http::header::HOST, host).map_err(wrong)?;
    for header in headers {
        let (name, value) = header.split_once(':').ok_or_else(|| format!("\"{header}\": expected \"Name: value\""))?;
        head.append_header(name.trim().to_owned(), value.trim()).map_err(wrong)?;
    }
    Ok((head, secure))
}

fn tell(house: Arc<House>, mut head: RequestHead, secure: bool, ip: IpAddr) -> String {
    let mut out = String::new();
    let mut exchange = Exchange::new(house.clone());
    exchange.peer = ip;
    exchange.cx.tls = secure.then(|| Arc::new(Tls::default()));
    let asked = head.uri.clone();
    let outcome = ingress::admit(&mut head, &mut exchange);
    let table = house.table();
    let canonical = exchange.cx.asked.as_ref().unwrap_or(&head.uri).clone();
    let _ = writeln!(out, "{} {}{}", head.method, exchange.cx.host, canonical);
    if canonical != asked {
        let _ = writeln!(out, "  the path was made canonical: {asked} was sent");
    }
    candidates(&mut out, &table, &head, &exchange, canonical.path());
    if let Some(route) = exchange.route() {
        steps(&mut out, route, &exchange, canonical.path());
    }
    for decision in &exchange.cx.decisions {
        let mode = format!("{:?}", decision.mode).to_lowercase();
        let _ = writeln!(out, "decision: step {}, rule {}, {mode}: {}", decision.step, decision.rule, decision.reason);
    }
    match outcome {
        ControlFlow::Break(reply) => {
            let body = match &reply.body {
                Body::Empty => String::new(),
                Body::Problem { detail } => format!(": {detail}"),
                Body::Bytes(bytes) => format!(", {} bytes", bytes.len()),
            };
            let _ = writeln!(out, "answer: {}{body}", reply.status);
        }
        ControlFlow::Continue(()) => destination(&mut out, &head, &exchange),
    }
    exchange.status = 200;
    out
}

/// Every route that takes this host, in the order of precedence, and what became of it.
fn candidates(out: &mut String, table: &Table, head: &RequestHead, exchange: &Exchange, path: &str) {
    let method: &Method = &head.method;
    let judged = table.matcher.explain(method, &exchange.cx.host, path, |n, spans| {
        let route = &table.routes[n];
        let mut cx = filters::cx::Cx::new(exchange.cx.now, exchange.cx.wall, exchange.cx.ip);
        cx.host = exchange.cx.host.clone();
        cx.captures = Captures { names: route.captures.clone(), spans: spans.clone() };
        route.when.as_ref().is_none_or(|when| when.test(&View { head, cx: &cx }))
    });
    for (n, why) in judged {
        let said = match why {
            Why::Taken => "takes it",
            Why::Outranked => "would take it, but is less specific",
            Why::When => "its `when` does not hold",
            Why::Method => "takes other methods",
            Why::Path | Why::Host => continue,
        };
        let entry = &table.matcher.entries()[n];
        let _ = writeln!(out, "route {} ({}): {said}", entry.name, entry.pattern);
    }
}

fn steps(out: &mut String, route: &Route, exchange: &Exchange, path: &str) {
    for name in route.captures.iter() {
        let _ = writeln!(out, "  {{{name}}} = {:?}", exchange.cx.captures.get(name, path).unwrap_or_default());
    }
    let steps: Vec<_> = route.pipeline.steps().collect();
    let _ = writeln!(out, "steps: {}", if steps.is_empty() { "none".to_owned() } else { steps.join(", ") });
}

fn destination(out: &mut String, head: &RequestHead, exchange: &Exchange) {
    let Some(Destination::Services(services)) = exchange.route().map(|r| &r.destination) else { return };
    if exchange.cx.asked.is_some() {
        let _ = writeln!(out, "rewritten: {}", head.uri);
    }
    let chosen = services.choose(&View { head, cx: &exchange.cx });
    for (n, leg) in services.legs.iter().enumerate() {
        let this = if n == chosen { "service" } else { "  else" };
        let _ = writeln!(out, "{this}: {}", leg.pool.name());
    }
}
