//! Named state that outlives a reload. What was *counted* lives here; what was *configured* lives in the filter.
//!
//! The new table is built while the old one lives, so equal names find the same state; when the last generation that
//! uses a name is gone, the state is freed, and a failed build frees only what it made.

use parking_lot::Mutex;
use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Weak};

type Shared = dyn Any + Send + Sync;

/// Living state, by its type and name.
#[derive(Default)]
pub struct Keep(Mutex<HashMap<(TypeId, String), Weak<Shared>>>);

impl Keep {
    /// The state of this type and name; made only if no living generation has it. `make` must not ask `Keep` again.
    pub fn get<T: Any + Send + Sync>(&self, name: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let mut map = self.0.lock();
        let slot = map.entry((TypeId::of::<T>(), name.to_string())).or_insert_with(|| Weak::<T>::new());
        let shared = slot.upgrade().unwrap_or_else(|| {
            let new: Arc<Shared> = Arc::new(make());
            *slot = Arc::downgrade(&new);
            new
        });
        shared.downcast().expect("the key holds the type")
    }

    /// Forgets the names nobody uses; called after each swap, since a `Weak` holds its allocation.
    pub fn sweep(&self) {
        self.0.lock().retain(|_, w| w.strong_count() > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    #[test]
    fn equal_names_share_until_the_last_user_is_gone() {
        let keep = Keep::default();
        let old = keep.get("a", || AtomicU32::new(1));
        old.store(7, Relaxed);
        let new = keep.get("a", || AtomicU32::new(1));
        assert_eq!(new.load(Relaxed), 7);
        assert_eq!(*keep.get("a", || 3_u8), 3, "another type is another state");
        drop((old, new));
        keep.sweep();
        assert!(keep.0.lock().is_empty());
        assert_eq!(keep.get("a", || AtomicU32::new(1)).load(Relaxed), 1);
    }
}
