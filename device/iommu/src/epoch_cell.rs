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
