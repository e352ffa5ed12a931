//! Services that misbehave: one is slow, one fails in several ways.

use super::serve::{Call, Example, Site};
use async_trait::async_trait;
use bytes::Bytes;
use pingora::{Error, ErrorType};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

pub(super) fn slow() -> Site {
    Site::new(Slow)
}
pub(super) fn failing() -> Site {
    Site::new(Failing::default())
}

/// `?for=3s`: at most half a minute.
struct Slow;

#[async_trait]
impl Example for Slow {
    async fn answer(&self, call: &mut Call) -> pingora::Result<()> {
        call.body().await?;
        let pause = call.duration("for", Duration::from_secs(1), Duration::from_secs(30));
        tokio::time::sleep(pause).await;
        call.reply(200, "text/plain", format!("that took {} ms\n", pause.as_millis())).await
    }
}

/// `/status/503` answers so; `/every/2` fails every second time; `/cut` breaks off in the middle of the body.
#[derive(Default)]
struct Failing {
    seen: AtomicU64,
}

#[async_trait]
impl Example for Failing {
    async fn answer(&self, call: &mut Call) -> pingora::Result<()> {
        call.body().await?;
        let path = call.path();
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let (what, number) = (parts.next(), parts.next().and_then(|n| n.parse::<u16>().ok()));
        match (what, number) {
            (Some("status"), Some(status @ 200..=599)) => {
                call.reply(status, "text/plain", format!("{status}, as you asked\n")).await
            }
            (Some("every"), Some(nth @ 1..)) => {
                match (self.seen.fetch_add(1, Relaxed) + 1).is_multiple_of(nth.into()) {
                    true => call.reply(503, "text/plain", "not this time\n").await,
                    false => call.reply(200, "text/plain", "this time\n").await,
                }
            }
            (Some("cut"), _) => {
                call.head(200, &[("Content-Type", "text/plain")], Some(100)).await?;
                call.session.write_response_body(Bytes::from_static(b"half of wh"), false).await?;
                Err(Error::new(ErrorType::Custom("cut, as asked")))
            }
            _ => call.reply(404, "text/plain", "try /status/503, /every/2 or /cut\n").await,
        }
    }
}
