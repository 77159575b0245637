//! Ctrl-C: the first one ends the run at the next slice and keeps what was measured, the second one aborts.

use std::{
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::exit::Exit;

/// Whether the user (or `kill`) asked for the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens to SIGINT, SIGTERM and SIGHUP.
    ///
    /// # Errors
    /// When the handler cannot be installed.
    pub(crate) fn install() -> Result<Self, ctrlc::Error> {
        Self::install_saying("Interrupted: finishing this slice, then saving. Press Ctrl-C again to abort.")
    }

    /// As [`install`](Self::install), with other words for the first Ctrl-C.
    ///
    /// # Errors
    /// As [`install`](Self::install).
    pub(crate) fn install_saying(words: &'static str) -> Result<Self, ctrlc::Error> {
        let interrupt = Self::default();
        let flag = interrupt.clone();
        ctrlc::set_handler(move || {
            if flag.0.swap(true, Ordering::Relaxed) {
                process::exit(i32::from(Exit::Interrupted as u8));
            }
            anstream::eprintln!("\n{words}");
        })?;
        Ok(interrupt)
    }

    /// Whether it was asked for.
    pub(crate) fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
