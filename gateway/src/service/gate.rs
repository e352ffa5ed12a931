//! At most so many requests under way, and at most so many waiting, first come first served.
//!
//! A place is passed on as a value. A waiter that is dropped between being given its place and taking it drops the
//! place with it, which passes it on to the next; so a cancelled request can never keep one.

use super::conf::Max;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// The counted state; outlives reloads. The bounds come with each call, so a changed bound applies at once.
#[derive(Debug, Default)]
pub struct Gate(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    inside: u32,
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    max: u32,
    place: oneshot::Sender<Place>,
}

/// A place inside; dropped when the request is over.
#[derive(Debug)]
pub struct Place(Option<Arc<Gate>>);

/// No place: the queue is full, or the wait was too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    Full,
    Waited,
}

impl Gate {
    pub async fn enter(self: &Arc<Gate>, max: &Max) -> Result<Place, Busy> {
        let turn = {
            let mut line = self.0.lock();
            if line.inside < max.inflight && line.waiting.is_empty() {
                line.inside += 1;
                return Ok(Place(Some(self.clone())));
            }
            // Those who gave up still stand in the line until their turn comes; they must not keep others out.
            if line.waiting.len() >= max.queue as usize {
                line.waiting.retain(|w| !w.place.is_closed());
            }
            if line.waiting.len() >= max.queue as usize {
                return Err(Busy::Full);
            }
            let (place, turn) = oneshot::channel();
            line.waiting.push_back(Waiter { max: max.inflight, place });
            turn
        };
        // A raised bound, or a place given back to nobody, may be free right now.
        self.call();
        match timeout_at(Instant::now() + max.wait.0, turn).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(Busy::Waited),
        }
    }

    /// Gives free places to those who wait longest.
    fn call(self: &Arc<Gate>) {
        loop {
            let mut line = self.0.lock();
            let free = line.waiting.front().is_some_and(|w| line.inside < w.max);
            let Some(next) = free.then(|| line.waiting.pop_front()).flatten() else { return };
            if next.place.is_closed() {
                continue;
            }
            line.inside += 1;
            // A failed send drops the place, which locks again.
            drop(line);
            if let Err(place) = next.place.send(Place(Some(self.clone()))) {
                place.forget();
            }
        }
    }

    fn leave(self: &Arc<Gate>) {
        self.0.lock().inside -= 1;
        self.call();
    }

    /// Requests inside and waiting.
    pub fn count(&self) -> (u32, usize) {
        let line = self.0.lock();
        (line.inside, line.waiting.iter().filter(|w| !w.place.is_closed()).count())
    }
}

impl Place {
    /// A place where nothing is bounded.
    pub const FREE: Place = Place(None);

    /// Gives the place back without calling the next, for the loop that is calling already.
    fn forget(mut self) {
        if let Some(gate) = self.0.take() {
            gate.0.lock().inside -= 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(gate) = self.0.take() {
            gate.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use filters::units::Span;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn max(inflight: u32, queue: u32) -> Max {
        Max { inflight, queue, wait: Span::secs(1) }
    }

    fn poll<F: Future>(f: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        f.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test(start_paused = true)]
    async fn waits_in_order_and_refuses_beyond_the_queue() {
        let (gate, max) = (Arc::new(Gate::default()), max(1, 2));
        let first = gate.enter(&max).await.expect("room");
        let (mut a, mut b) = (pin!(gate.enter(&max)), pin!(gate.enter(&max)));
        assert!(poll(a.as_mut()).is_pending() && poll(b.as_mut()).is_pending());
        assert_eq!(gate.enter(&max).await.err(), Some(Busy::Full));
        assert_eq!(gate.count(), (1, 2));
        drop(first);
        assert!(poll(b.as_mut()).is_pending(), "a came first");
        let Poll::Ready(Ok(place)) = poll(a.as_mut()) else { panic!("a has its place") };
        drop(place);
        assert!(matches!(poll(b.as_mut()), Poll::Ready(Ok(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_waiter_keeps_no_place() {
        let (gate, max) = (Arc::new(Gate::default()), max(1, 2));
        let first = gate.enter(&max).await.expect("room");
        let mut a = Box::pin(gate.enter(&max));
        let mut b = pin!(gate.enter(&max));
        assert!(poll(a.as_mut()).is_pending() && poll(b.as_mut()).is_pending());
        drop(first);
        drop(a); // was given the place, never took it
        let Poll::Ready(Ok(place)) = poll(b.as_mut()) else { panic!("b has a's place") };
        drop(place);
        assert_eq!(gate.count(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_gave_up_leave_the_queue() {
        let (gate, max) = (Arc::new(Gate::default()), max(1, 1));
        let _first = gate.enter(&max).await.expect("room");
        assert_eq!(gate.enter(&max).await.err(), Some(Busy::Waited), "after a second of paused time");
        let mut next = pin!(gate.enter(&max));
        assert!(poll(next.as_mut()).is_pending(), "the one before no longer counts");
    }

    #[tokio::test(start_paused = true)]
    async fn a_raised_bound_lets_the_waiting_in() {
        let gate = Arc::new(Gate::default());
        let _first = gate.enter(&max(1, 5)).await.expect("room");
        let low = max(1, 5);
        let mut waiting = pin!(gate.enter(&low));
        assert!(poll(waiting.as_mut()).is_pending());
        let high = max(3, 5);
        let mut more = pin!(gate.enter(&high));
        assert!(poll(more.as_mut()).is_pending(), "never before those who wait already");
        drop(_first);
        assert!(matches!(poll(waiting.as_mut()), Poll::Ready(Ok(_))));
        assert!(matches!(poll(more.as_mut()), Poll::Ready(Ok(_))));
    }
}
