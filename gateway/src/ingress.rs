//! From a request's head to its destination: who asks, for what, which route that is, and what the filters say.
//!
//! Nothing here waits or writes: the outcome is a value. The head that leaves here is the one that is forwarded: its
//! path is canonical, its cookies are one field, and what was routed and inspected is what the upstream sees.

use crate::destination::Destination;
use crate::exchange::Exchange;
use crate::id::Trace;
use crate::route::Spans;
use crate::{forwarded, id, listen, path, wire};
use filters::cx::{Captures, Decision};
use filters::expr::View;
use filters::filter::{GO, Reply, Step};
use filters::head::{RequestHead, header};
use filters::units::Mode;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ALLOW, CONNECTION, CONTENT_TYPE, HOST, ORIGIN, UPGRADE};
use http::{HeaderValue, Method, Version};
use smol_str::SmolStr;
use std::borrow::Cow;

/// The whole way in. `Break` is the answer; otherwise the exchange has a route to a service.
pub fn admit(head: &mut RequestHead, exchange: &mut Exchange) -> Step {
    note(head, exchange);
    if head.version == Version::HTTP_2 {
        if let Err(refused) = listen::check::h2(head, exchange.rules()) {
            return refuse(exchange, "normalise", refused.reason, Reply::problem(refused.status, refused.reason));
        }
        wire::merge_cookies(head);
    }
    identify(head, exchange);
    target(head, exchange)?;
    address(head, exchange)?;
    find(head, exchange)?;
    upgrade(head, exchange)?;
    exchange.request(head)?;
    unanswered_preflight(head, exchange)?;
    own(head, exchange)?;
    rewrite(head, exchange)?;
    exchange.times.passed = crate::clock::now();
    GO
}

/// What the log needs even if all else fails.
fn note(head: &RequestHead, exchange: &mut Exchange) {
    exchange.method = head.method.clone();
    exchange.uri = head.uri.clone();
    exchange.version = head.version;
    let kind = head.headers.get(CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
    exchange.cx.grpc = kind.starts_with(b"application/grpc");
}

/// A refusal before any filter: recorded like a filter's.
fn refuse(exchange: &mut Exchange, step: &'static str, reason: impl Into<Cow<'static, str>>, reply: Reply) -> Step {
    let rule = Cow::Borrowed(step);
    exchange.cx.decisions.push(Decision { step, rule, mode: Mode::Enforce, reason: reason.into() });
    Step::Break(Box::new(reply))
}

/// The client's address, scheme, ids: what trusted peers say counts, what others say does not.
fn identify(head: &RequestHead, exchange: &mut Exchange) {
    let client = forwarded::client(exchange.peer, &exchange.table.trusted, head);
    exchange.trusted = client.trusted;
    let cx = &mut exchange.cx;
    cx.ip = client.ip;
    if let Some(conn) = &exchange.conn {
        cx.tls = conn.tls.clone();
    }
    cx.secure = client.secure.unwrap_or(cx.tls.is_some());
    let taken = |name| if client.trusted { header(&head.headers, name) } else { None };
    if let Some(sent) = taken("x-request-id").and_then(id::adopted) {
        cx.id = sent;
    }
    exchange.trace = Some(taken("traceparent").and_then(Trace::adopt).unwrap_or_else(|| Trace::new(&cx.id)));
}

/// The path, canonical once and for all.
fn target(head: &mut RequestHead, exchange: &mut Exchange) -> Step {
    let changed = match path::canonical(head.raw_path(), &exchange.table.path) {
        Ok(canonical) if !canonical.changed() && head.raw_path().starts_with(b"/") => return GO,
        Ok(canonical) => canonical.into_target().into_owned(),
        Err(why) => {
            exchange.cx.step = "normalise";
            return exchange
                .cx
                .refuse(Mode::Enforce, why.rule(), why.reason(), || Reply::problem(why.status(), why.reason()));
        }
    };
    match head.set_raw_path(changed.as_bytes()) {
        Ok(()) => GO,
        Err(_) => {
            refuse(exchange, "normalise", "the target is not valid", Reply::problem(400, "the target is not valid"))
        }
    }
}

/// The host, and what the listener has to say about it.
fn address(head: &RequestHead, exchange: &mut Exchange) -> Step {
    let asked = match head.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => header(&head.headers, HOST.as_str()),
    };
    match asked.filter(|a| !a.is_empty()).map(path::host) {
        Some(Some(authority)) => exchange.cx.host = SmolStr::new(authority.host),
        Some(None) => {
            return refuse(
                exchange,
                "normalise",
                "the host is not valid",
                Reply::problem(400, "the host is not valid"),
            );
        }
        // HTTP/1.0 may come without; everything later was checked by the listener.
        None => {}
    }
    let Some(conn) = exchange.conn.clone() else { return GO };
    if let Some(port) = conn.redirect {
        return Step::Break(Box::new(to_https(head, &exchange.cx.host, port)));
    }
    if conn.misdirected(&exchange.cx.host) {
        let reply = Reply::problem(421, "this connection was authenticated for another host");
        return refuse(exchange, "tls", "the host does not belong to the server name of the connection", reply);
    }
    GO
}

fn to_https(head: &RequestHead, host: &str, port: u16) -> Reply {
    let target = head.uri.path_and_query().map_or("/", |p| p.as_str());
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    match HeaderValue::try_from(format!("https://{host}{port}{target}")) {
        Ok(location) if !host.is_empty() => Reply::empty(308).with(http::header::LOCATION, location),
        _ => Reply::problem(400, "the host is not valid"),
    }
}

/// The route.
fn find(head: &RequestHead, exchange: &mut Exchange) -> Step {
    let (table, host) = (exchange.table.clone(), exchange.cx.host.clone());
    let mut when = |n: usize, spans: &Spans| {
        let route = &table.routes[n];
        exchange.cx.captures = Captures { names: route.captures.clone(), spans: spans.clone() };
        route.when.as_ref().is_none_or(|when| when.test(&View { head, cx: &exchange.cx }))
    };
    let mut found = table.matcher.find(&head.method, &host, head.uri.path(), &mut when);
    if let (Err(_), Some(method)) = (&found, preflight(head)) {
        found = table.matcher.find(&method, &host, head.uri.path(), &mut when);
    }
    match found {
        Ok(found) => {
            exchange.cx.captures =
                Captures { names: table.routes[found.route].captures.clone(), spans: found.captures };
            exchange.enter(found.route);
            GO
        }
        Err(missing) => {
            let (rule, detail) = match missing.status() {
                405 => ("method", "the method is not served here"),
                _ => ("path", "nothing is served here"),
            };
            let mut reply = Reply::problem(missing.status(), detail);
            if let Some(allow) = missing.allow().and_then(|a| HeaderValue::try_from(a).ok()) {
                reply = reply.with(ALLOW, allow);
            }
            exchange.cx.captures = Captures::default();
            exchange.cx.step = "route";
            exchange.cx.refuse(Mode::Enforce, rule, detail, || reply)
        }
    }
}

/// The method that a CORS preflight asks about (Fetch, section 3.2.2).
fn preflight(head: &RequestHead) -> Option<Method> {
    let asks = head.method == Method::OPTIONS && head.headers.contains_key(ORIGIN);
    header(&head.headers, ACCESS_CONTROL_REQUEST_METHOD.as_str()).filter(|_| asks)?.parse().ok()
}

/// A preflight may take the route of the request that it announces, for `cors` to answer. What `cors` did not answer
/// goes no further than any other method that the route does not take.
fn unanswered_preflight(head: &RequestHead, exchange: &mut Exchange) -> Step {
    let takes = |n: usize| {
        let methods = exchange.table.matcher.entries()[n].pattern.methods();
        methods.is_empty() || methods.contains(&head.method)
    };
    if preflight(head).is_none() || exchange.route.is_none_or(takes) {
        return GO;
    }
    refuse(exchange, "route", "no route takes this method", Reply::problem(405, "the method is not served here"))
}

/// WebSocket only where the route allows it. Any other upgrade is not ours to make and is left out of what is forwarded.
fn upgrade(head: &RequestHead, exchange: &mut Exchange) -> Step {
    let asks = |name, token: &str| {
        let lines = head.headers.get_all(name);
        lines.iter().filter_map(|v| v.to_str().ok()).any(|l| l.split(',').any(|t| t.trim().eq_ignore_ascii_case(token)))
    };
    if head.version != Version::HTTP_11 || !asks(UPGRADE, "websocket") || !asks(CONNECTION, "upgrade") {
        return GO;
    }
    exchange.upgrade = exchange.route().is_some_and(|r| r.upgrade);
    if exchange.upgrade {
        return GO;
    }
    refuse(exchange, "upgrade", "the route does not allow it", Reply::problem(403, "upgrades are not allowed here"))
}

/// The destinations that need no upstream.
fn own(head: &RequestHead, exchange: &Exchange) -> Step {
    let Some(route) = exchange.route() else { return GO };
    let view = View { head, cx: &exchange.cx };
    match &route.destination {
        Destination::Services(_) => GO,
        Destination::Reply(reply) => Step::Break(Box::new(reply.reply(&view))),
        Destination::Redirect(redirect) => Step::Break(Box::new(redirect.reply(&view))),
    }
}

/// What the upstream is asked for instead, if the route says so. What the client asked for is kept for the answer.
fn rewrite(head: &mut RequestHead, exchange: &mut Exchange) -> Step {
    let table = exchange.table.clone();
    let Some(rewrite) = exchange.route.and_then(|n| table.routes[n].rewrite.as_ref()) else { return GO };
    let asked = head.uri.clone();
    let view = View { head, cx: &exchange.cx };
    let outcome = match (rewrite.apply(asked.path_and_query().map_or("/", |p| p.as_str()), &view), rewrite.host(&view))
    {
        (Ok(target), Ok(host)) => Ok((target.into_owned(), host.map(|h| h.into_owned()))),
        (Err(why), _) | (_, Err(why)) => Err(why),
    };
    let written = outcome.map_err(|why| why.reason()).and_then(|(target, host)| {
        head.set_raw_path(target.as_bytes()).map_err(|_| "the rewritten target is not valid")?;
        match host {
            Some(host) => head.insert_header(HOST, host).map_err(|_| "the rewritten host is not valid"),
            None => Ok(()),
        }
    });
    if let Err(why) = written {
        return refuse(exchange, "rewrite", why, Reply::problem(400, why));
    }
    exchange.cx.asked = Some(asked);
    GO
}
