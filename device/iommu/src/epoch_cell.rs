//! A shared value that readers reach with one atomic load and writers replace: the value a guard found stays until
//! the guard is gone.

#![allow(unsafe_code, reason = "readers follow a raw pointer that a guard keeps valid")]

use std::marker::PhantomData;

use crate::{
    epoch::{Guard, Retire},
    sync::{AtomicPtr, Ordering},
};

/// A value that is read under a guard and replaced as a whole.
///
/// All guards used with one cell must come from participants of one [`Epoch`](crate::epoch::Epoch): the device that
/// owns the cell has only one, and hands out no others.
pub(crate) struct EpochCell<T: Send + Sync + 'static> {
    ptr: AtomicPtr<T>,
    owns: PhantomData<Box<T>>,
}

impl<T: Send + Sync + 'static> EpochCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { ptr: AtomicPtr::new(Box::into_raw(Box::new(value))), owns: PhantomData }
    }

    /// The current value, for as long as the guard lives.
    #[inline(always)]
    pub(crate) fn load<'g>(&'g self, _guard: &'g Guard<'_>) -> &'g T {
        // Acquire pairs with the AcqRel swap in `replace`: what the pointer leads to has been written.
        let ptr = self.ptr.load(Ordering::Acquire);
        // SAFETY: the pointer came from `Box::into_raw` and is freed only by `Retired`, which `replace` hands to the
        // participants' grace period: not before the guard that the caller holds is gone.
        unsafe { &*ptr }
    }

    /// Puts a new value in place; the old one is dropped once no guard that may have found it is live.
    pub(crate) fn replace(&self, value: T, guard: &Guard<'_>) {
        let old = self.ptr.swap(Box::into_raw(Box::new(value)), Ordering::AcqRel);
        guard.retire(Box::new(Retired { ptr: old, owns: PhantomData::<Box<T>> }));
    }
}

impl<T: Send + Sync + 'static> Drop for EpochCell<T> {
    fn drop(&mut self) {
        let ptr = self.ptr.load(Ordering::Relaxed);
        // SAFETY: `&mut self`, so no `load` borrow is live; the current pointer has never been retired.
        drop(unsafe { Box::from_raw(ptr) });
    }
}

struct Retired<T> {
    ptr: *mut T,
    owns: PhantomData<Box<T>>,
}

// SAFETY: a `Retired` owns its `T` as a box would, and `EpochCell` only retires `T: Send`.
unsafe impl<T: Send> Send for Retired<T> {}

impl<T: Send> Retire for Retired<T> {}

impl<T> Drop for Retired<T> {
    fn drop(&mut self) {
        // SAFETY: unlinked by `replace`, the only owner now; the grace period has passed when this runs.
        drop(unsafe { Box::from_raw(self.ptr) });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::epoch::{Epoch, Fences, Patience};

    #[test]
    fn a_replaced_value_lives_as_long_as_the_guard_that_found_it() {
        let epoch = Epoch::new(Fences::Symmetric);
        let (reader, writer) = (epoch.register().unwrap(), epoch.register().unwrap());
        let first = Arc::new(1);
        let cell = EpochCell::new(first.clone());
        let guard = reader.pin();
        let found = cell.load(&guard);
        cell.replace(Arc::new(2), &writer.pin());
        let short = Patience { spins: 1, yields: 1, naps: 0 };
        assert!(writer.synchronize(short).is_err());
        assert_eq!((**found, Arc::strong_count(&first)), (1, 2));
        drop(guard);
        writer.synchronize(short).unwrap();
        assert_eq!(Arc::strong_count(&first), 1);
        assert_eq!(**cell.load(&reader.pin()), 2);
    }
}

#[cfg(all(test, loom))]
mod models {
    //! Readers and writers of a cell whose values loom tracks: each is written before it is put in place, and once more
    //! when it is dropped.

    use std::sync::Arc;

    use ::loom::thread;

    use super::*;
    use crate::{
        epoch::{Epoch, Fences, Participant, Patience},
        loom_model::{Tracked, bounded, model},
    };

    const PATIENCE: Patience = Patience { spins: 0, yields: 1_000, naps: 0 };
    const DROPPED: u64 = 99;

    struct Value(Tracked);

    impl Value {
        fn new(number: u64) -> Self {
            let value = Self(Tracked::new(0));
            value.0.write(number);
            value
        }
    }

    impl Drop for Value {
        fn drop(&mut self) {
            self.0.write(DROPPED);
        }
    }

    fn read(cell: &EpochCell<Value>, me: &Participant) -> u64 {
        let guard = me.pin();
        let value = cell.load(&guard);
        let number = value.0.read();
        // Under the same guard it stays what it was.
        assert_eq!(value.0.read(), number);
        number
    }

    fn replaced(fences: Fences) {
        model(move || {
            let epoch = Epoch::new(fences);
            let (me, other) = (epoch.register().unwrap(), epoch.register().unwrap());
            let cell = Arc::new(EpochCell::new(Value::new(1)));
            let reader = {
                let cell = cell.clone();
                thread::spawn(move || {
                    let (first, second) = (read(&cell, &other), read(&cell, &other));
                    assert!(first >= 1 && second >= first && second <= 2, "{first}, then {second}");
                })
            };
            cell.replace(Value::new(2), &me.pin());
            me.synchronize(PATIENCE).unwrap();
            reader.join().unwrap();
            assert_eq!(read(&cell, &me), 2);
        });
    }

    #[test]
    fn a_reader_finds_a_whole_value_and_keeps_it() {
        [Fences::Symmetric, Fences::Asymmetric].into_iter().for_each(replaced);
    }

    /// The one that replaces a value drops it, whoever has made it.
    #[test]
    fn of_two_writers_each_drops_what_it_has_replaced() {
        bounded(3, || {
            let epoch = Epoch::new(Fences::Symmetric);
            let (me, other) = (epoch.register().unwrap(), epoch.register().unwrap());
            let cell = Arc::new(EpochCell::new(Value::new(1)));
            let writer = {
                let cell = cell.clone();
                thread::spawn(move || {
                    cell.replace(Value::new(2), &other.pin());
                    other.synchronize(PATIENCE).unwrap();
                })
            };
            cell.replace(Value::new(3), &me.pin());
            me.synchronize(PATIENCE).unwrap();
            writer.join().unwrap();
            assert!(matches!(read(&cell, &me), 2 | 3));
        });
    }
}
