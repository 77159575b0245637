//! Grace periods: UNMAP completes only when no access that began under the old mapping still runs.
//!
//! Every thread that reads or writes mapping tables registers as a [`Participant`] and pins itself ([`Guard`]) while
//! it uses what it found. [`Participant::synchronize`] waits until every guard that was live when it was called is
//! gone. Readers never wait; a reader that does not come back is reported ([`Stuck`]), not waited for for ever.
//!
//! The same wait frees memory: what was unlinked under a guard is handed to [`Guard::retire`] and reclaimed when no
//! participant can hold it any more.
//!
//! Orderings: a pin stores its epoch, then fences ([`Fences`]), then loads table entries. An unmapper stores table
//! entries, fences, then loads the pins. One of the two sees the other, so a guard that the unmapper does not see
//! sees the removal. What a guard accessed happens before what follows a grace period: the scan sees the guard's end, or
//! a later pin of the same participant, and both are Release stores.
//!
//! `models` checks this on the shipped code, with objects whose accesses loom tracks.

mod fences;
#[cfg(all(test, loom))]
mod models;
mod participant;

pub use fences::Fences;
pub use participant::{Epoch, Guard, Participant, Patience, Retire, Retired, Stuck, TooManyParticipants};

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
