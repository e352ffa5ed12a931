//! DNS names behind `to`, resolved again and again on the control runtime; no request ever waits for it.
//!
//! A name that stops resolving keeps its last good addresses. One that never resolved makes its service answer 503 until
//! it does, which is a warning at start and no reason to refuse the configuration.

use super::conf::Address;
use super::{Pool, mix};
use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// How long one look-up may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Addresses of one name that are used; the rest of a longer answer is left out.
const MOST: usize = 1024;

/// Where names are looked up.
pub trait Resolver: Clone + Send + Sync + 'static {
    fn resolve(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;
}

/// What the system is set up to use: `/etc/hosts`, then the name servers of `resolv.conf`.
#[derive(Debug, Clone, Copy)]
pub struct System;

impl Resolver for System {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }
}

/// Resolves until it is dropped.
#[derive(Debug)]
pub struct DiscoverTask(AbortHandle);

impl Drop for DiscoverTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Resolves the names of all these services once, at the same time; those that take longer than `patience` are left to
/// [`start`]. Run before the services are used.
pub async fn first<R: Resolver>(pools: &[Arc<Pool>], resolver: &R, patience: Duration) {
    let mut all = JoinSet::new();
    for pool in pools.iter().filter(|p| p.names().next().is_some()) {
        let (pool, resolver) = (pool.clone(), resolver.clone());
        all.spawn(async move { round(&pool, &resolver).await });
    }
    let _ = timeout(patience, async { while all.join_next().await.is_some() {} }).await;
}

/// Keeps the names of this service resolved; `None` if it has none.
pub fn start<R: Resolver>(pool: &Arc<Pool>, resolver: R, on: &Handle) -> Option<DiscoverTask> {
    pool.names().next()?;
    let pool = pool.clone();
    let task = on.spawn(async move {
        loop {
            let known = pool.names().all(|(_, _, name)| pool.knows(&name));
            // A name that never resolved is awaited eagerly; the rest of the services must not ask in step.
            let pause = if known { pool.resolve } else { pool.resolve.min(Duration::from_secs(1)) };
            sleep(pause.mul_f64(1.0 + 0.1 * super::draws().unit())).await;
            round(&pool, &resolver).await;
        }
    });
    Some(DiscoverTask(task.abort_handle()))
}

/// Looks every name up; the endpoints are replaced if anything is different from what they were made of, also if another
/// generation of the service was the one that learnt it.
async fn round<R: Resolver>(pool: &Pool, resolver: &R) {
    for (host, port, name) in pool.names() {
        let answer = match timeout(PATIENCE, resolver.resolve(host, port)).await {
            Ok(answer) => answer,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
        };
        learn(pool, &name, answer);
    }
    let latest = pool.core.shared.resolved.lock().changes;
    if pool.set.load().resolved != latest {
        pool.renew();
    }
}

fn learn(pool: &Pool, name: &str, answer: io::Result<Vec<SocketAddr>>) {
    let service = pool.name();
    let found: BTreeSet<SocketAddr> = match answer {
        Ok(found) => found.into_iter().collect(),
        Err(e) => return complain(pool, name, &e.to_string()),
    };
    if found.is_empty() {
        return complain(pool, name, "no address");
    }
    let mut found: Vec<SocketAddr> = found.into_iter().collect();
    if found.len() > MOST {
        // The same ones whatever order the answer has.
        found.sort_by_key(|a| mix::text(&a.to_string()));
        found.truncate(MOST);
        found.sort();
    }
    let mut resolved = pool.core.shared.resolved.lock();
    if resolved.addresses.get(name) != Some(&found) {
        log::info!("service {service}: {name} resolves to {found:?}");
        resolved.addresses.insert(name.into(), found);
        resolved.changes += 1;
    }
}

/// The last good answer stays.
fn complain(pool: &Pool, name: &str, why: &str) {
    match pool.knows(name) {
        true => log::debug!("service {}: {name} does not resolve, its last addresses stay: {why}", pool.name()),
        false => log::warn!("service {}: {name} does not resolve: {why}", pool.name()),
    }
}

impl Pool {
    /// Host, port, and both as written.
    fn names(&self) -> impl Iterator<Item = (&str, u16, String)> {
        self.to.iter().filter_map(|t| match &t.addr {
            Address::Name { host, port } => Some((host.as_str(), *port, t.addr.to_string())),
            _ => None,
        })
    }
    fn knows(&self, name: &str) -> bool {
        self.core.shared.resolved.lock().addresses.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::tests::pool;
    use parking_lot::Mutex;

    type Answers = Arc<Mutex<Vec<io::Result<Vec<SocketAddr>>>>>;

    /// Answers from the end of a list; silent once it is empty.
    #[derive(Clone)]
    struct Script(Answers);

    impl Resolver for Script {
        async fn resolve(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
            let next = self.0.lock().pop();
            match next {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        }
    }

    fn script(answers: impl IntoIterator<Item = io::Result<&'static [&'static str]>>) -> Script {
        let parse = |all: &[&str]| all.iter().map(|a| a.parse().expect("an address")).collect();
        let mut all: Vec<_> = answers.into_iter().map(|a| a.map(parse)).collect();
        all.reverse();
        Script(Arc::new(Mutex::new(all)))
    }

    fn names(pool: &Pool) -> Vec<String> {
        pool.endpoints(0).into_iter().map(|e| e.name.into()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn follows_the_name_and_keeps_the_last_good_answer() {
        let (pool, _keep) = pool("to = [\"app.test:80 x2\", \"10.0.0.9:80\"]");
        let script = script([
            Ok(&["10.0.0.2:80", "10.0.0.1:80", "10.0.0.2:80"] as &[_]),
            Err(io::ErrorKind::NotFound.into()),
            Ok(&[]),
            Ok(&["[::1]:80", "10.0.0.9:80"]),
        ]);
        assert_eq!(names(&pool), ["10.0.0.9:80"]);
        first(std::slice::from_ref(&pool), &script, PATIENCE).await;
        assert_eq!(names(&pool), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.9:80"]);
        assert_eq!(pool.endpoints(0)[0].weight, 2);
        round(&pool, &script).await;
        round(&pool, &script).await;
        assert_eq!(names(&pool).len(), 3, "an error and an empty answer change nothing");
        round(&pool, &script).await;
        assert_eq!(names(&pool), ["10.0.0.9:80", "[::1]:80"], "an address that stands twice is one endpoint");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_never_answers_does_not_hold_up_the_start() {
        let (pool, _keep) = pool("to = \"app.test:80\"");
        first(std::slice::from_ref(&pool), &script([]), Duration::from_secs(2)).await;
        assert!(names(&pool).is_empty());
        assert!(pool.pick(None, &Default::default(), 1).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_resolves_again_and_counts_survive() {
        let (pool, _keep) = pool("to = \"app.test:80\"\nresolve = \"10s\"");
        let script = script([Ok(&["10.0.0.1:80"] as &[_]), Ok(&["10.0.0.1:80", "10.0.0.2:80"])]);
        let mut renewed = pool.renewed.subscribe();
        let _task = start(&pool, script, &Handle::current()).expect("there is a name");
        renewed.changed().await.expect("the pool lives");
        let lease = pool.pick(None, &Default::default(), 1).expect("one endpoint");
        renewed.changed().await.expect("the pool lives");
        let all = pool.endpoints(1);
        assert_eq!(
            all.iter().map(|e| (e.name.as_str(), e.inflight)).collect::<Vec<_>>(),
            [("10.0.0.1:80", 1), ("10.0.0.2:80", 0)]
        );
        drop(lease);
        assert_eq!(pool.endpoints(1)[0].inflight, 0);
    }

    #[tokio::test]
    async fn the_system_knows_localhost() {
        let (pool, _keep) = pool("to = \"localhost:80\"");
        first(std::slice::from_ref(&pool), &System, PATIENCE).await;
        assert!(!names(&pool).is_empty());
    }
}
