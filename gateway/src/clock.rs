//! Time, read in one place: monotonic nanoseconds for everything that is counted, the wall clock for what people read.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// The moment that nanoseconds are counted from.
static START: OnceLock<Instant> = OnceLock::new();

fn start() -> Instant {
    // A second before the first look, so that no moment is zero.
    *START.get_or_init(|| Instant::now() - Duration::from_secs(1))
}

/// Monotonic time in nanoseconds.
pub fn now() -> u64 {
    Instant::now().saturating_duration_since(start()).as_nanos() as u64
}

/// The moment that [`now`] was or will be `ns`.
pub fn instant(ns: u64) -> Instant {
    start() + Duration::from_nanos(ns)
}

/// Wall-clock time in milliseconds since the Unix epoch.
pub fn wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
