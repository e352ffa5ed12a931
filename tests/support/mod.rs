//! What the tests stand on: the real binary, origins that misbehave on purpose, and clients that see every byte.
//!
//! Nothing here sleeps to wait for something: every wait is for an event, with a deadline that only a failure reaches.

pub mod certs;
pub mod client;
pub mod gateway;
pub mod h2;
pub mod message;
pub mod origin;
pub mod socket;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use client::{Client, get, get_with};
pub use gateway::Gateway;
pub use message::Response;
pub use origin::Origin;

/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A directory of its own, removed with all that is in it.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Dir {
        static NTH: AtomicUsize = AtomicUsize::new(0);
        let name = format!("portcullis-{}-{}", std::process::id(), NTH.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Dir(path)
    }
    pub fn path(&self) -> &Path {
        &self.0
    }
    /// Writes a file and gives its whole path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().expect("a file in the directory")).expect("a directory");
        std::fs::write(&path, content).expect("a temporary file");
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A value that threads wait for.
pub struct Watched<T>(Arc<(Mutex<T>, Condvar)>);

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Watched(self.0.clone())
    }
}

impl<T> Watched<T> {
    pub fn new(value: T) -> Watched<T> {
        Watched(Arc::new((Mutex::new(value), Condvar::new())))
    }
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_all();
        result
    }
    /// Waits until `ready` gives something; `None` when patience ends first.
    pub fn until<R>(&self, mut ready: impl FnMut(&mut T) -> Option<R>) -> Option<R> {
        let deadline = Instant::now() + PATIENCE;
        let mut value = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(result) = ready(&mut value) {
                return Some(result);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            value = self.0.1.wait_timeout(value, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Opens once, for all who wait.
#[derive(Clone)]
pub struct Gate(Watched<bool>);

impl Gate {
    pub fn new() -> Gate {
        Gate(Watched::new(false))
    }
    pub fn open(&self) {
        self.0.change(|open| *open = true);
    }
    /// Waits for the gate to open: false when patience ended first.
    pub fn pass(&self) -> bool {
        self.0.until(|open| open.then_some(())).is_some()
    }
}

/// Asks again and again, without a pause between but what the asking takes, until `ready` or the end of patience.
pub fn eventually<R>(what: &str, mut ready: impl FnMut() -> Option<R>) -> R {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(result) = ready() {
            return result;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
