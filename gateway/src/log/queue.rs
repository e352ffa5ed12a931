//! From many threads to one writer, without waiting: each thread appends to a buffer of its own, and the writer swaps
//! full buffers for empty ones. A thread wakes the writer only when it wrote the first bytes of a buffer or filled a
//! block, so an idle gateway has an idle writer, and a busy one few system calls.

use super::sink::Sink;
use crate::metrics::slot;
use parking_lot::{Condvar, Mutex};
use prometheus::IntCounter;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// With so much in a buffer the writer does not linger.
const BLOCK: usize = 256 << 10;
/// All buffers together; each has at least four blocks.
const TOTAL: usize = 32 << 20;
/// Trouble is told at most this often.
const TELL: Duration = Duration::from_secs(60);

/// The end that threads write to. Dropped, it lets the writer finish by itself.
pub(super) struct Queue {
    shared: Arc<Shared>,
    writer: Thread,
}

struct Shared {
    shards: Box<[Shard]>,
    /// The most a shard may hold.
    room: usize,
    pending: AtomicBool,
    urgent: AtomicBool,
    reopen: AtomicBool,
    closing: AtomicBool,
    ended: Mutex<bool>,
    end: Condvar,
    dropped: IntCounter,
}

/// A buffer, alone on its cache lines.
#[repr(align(128))]
#[derive(Default)]
struct Shard(Mutex<Vec<u8>>);

impl Queue {
    /// Starts the writer. `name` is how it speaks of itself when records are lost; an empty one keeps silent.
    pub(super) fn start(
        name: &'static str,
        sink: Sink,
        threads: usize,
        linger: Duration,
        dropped: IntCounter,
    ) -> io::Result<Queue> {
        let shards = threads.clamp(1, 64);
        let shared = Arc::new(Shared {
            shards: (0..shards).map(|_| Shard::default()).collect(),
            room: (TOTAL / shards).max(4 * BLOCK),
            pending: AtomicBool::new(false),
            urgent: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            ended: Mutex::new(false),
            end: Condvar::new(),
            dropped,
        });
        let mut writer = Writer { name, sink, shared: shared.clone(), linger, lost: 0, told: None, spare: Vec::new() };
        let thread = thread::Builder::new().name("log".into()).spawn(move || writer.run())?;
        Ok(Queue { shared, writer: thread.thread().clone() })
    }

    /// Lets `write` append one record, complete with what ends it, if there is room.
    pub(super) fn put(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let shared = &*self.shared;
        let (before, after) = {
            let mut buffer = shared.shards[slot() % shared.shards.len()].0.lock();
            if buffer.len() >= shared.room || shared.closing.load(Relaxed) {
                drop(buffer);
                return shared.dropped.inc();
            }
            let before = buffer.len();
            write(&mut buffer);
            (before, buffer.len())
        };
        if before == 0 {
            shared.pending.store(true, Release);
            self.writer.unpark();
        } else if before < BLOCK && after >= BLOCK {
            shared.urgent.store(true, Release);
            self.writer.unpark();
        }
    }

    pub(super) fn reopen(&self) {
        self.shared.reopen.store(true, Release);
        self.writer.unpark();
    }

    /// Has all that was put so far written, and ends the writer; false if that took too long.
    pub(super) fn close(&self, patience: Duration) -> bool {
        self.shared.closing.store(true, Release);
        self.writer.unpark();
        let mut ended = self.shared.ended.lock();
        self.shared.end.wait_while_for(&mut ended, |ended| !*ended, patience);
        *ended
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.shared.closing.store(true, Release);
        self.writer.unpark();
    }
}

struct Writer {
    name: &'static str,
    sink: Sink,
    shared: Arc<Shared>,
    linger: Duration,
    /// Lost since that was last told, and when.
    lost: u64,
    told: Option<Instant>,
    spare: Vec<u8>,
}

impl Writer {
    fn run(&mut self) {
        loop {
            self.wait();
            let closing = self.shared.closing.load(Acquire);
            let reopen = self.shared.reopen.swap(false, AcqRel);
            self.drain();
            if reopen && let Err(e) = self.sink.reopen() {
                log::error!("{}: cannot reopen: {e}; writing on to the old file", self.name);
            }
            if closing {
                *self.shared.ended.lock() = true;
                self.shared.end.notify_all();
                return;
            }
        }
    }

    /// Until there is something to write; then a little longer, so that one write takes more.
    fn wait(&self) {
        let shared = &*self.shared;
        let hurry = || shared.closing.load(Acquire) || shared.reopen.load(Acquire);
        while !shared.pending.swap(false, AcqRel) {
            if hurry() {
                return;
            }
            thread::park();
        }
        let until = Instant::now() + self.linger;
        while !shared.urgent.swap(false, AcqRel) && !hurry() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }

    fn drain(&mut self) {
        for nth in 0..self.shared.shards.len() {
            let mut block = std::mem::take(&mut self.spare);
            std::mem::swap(&mut block, &mut *self.shared.shards[nth].0.lock());
            if !block.is_empty() {
                let outcome = self.sink.write(&block);
                self.account(outcome);
            }
            block.clear();
            block.shrink_to(2 * BLOCK);
            self.spare = block;
        }
    }

    fn account(&mut self, outcome: Result<(), (u64, io::Error)>) {
        if let Err((lost, _)) = &outcome {
            self.shared.dropped.inc_by(*lost);
            self.lost += lost;
        }
        if self.name.is_empty() || self.lost == 0 || self.told.is_some_and(|t| t.elapsed() < TELL) {
            return;
        }
        match outcome {
            Err((_, e)) => log::error!("{}: {} records lost: {e}", self.name, self.lost),
            Ok(()) => log::warn!("{}: writing again after {} more records were lost", self.name, self.lost),
        }
        (self.lost, self.told) = (0, Some(Instant::now()));
    }
}
