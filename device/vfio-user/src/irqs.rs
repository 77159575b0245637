//! Interrupts on their way to the client: eventfds.

use std::{
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::fs::readlink;
use virtio_transport::pci::{Message, Signals};

use crate::{
    Lent,
    notify::Notifier,
    request::{IrqAction, IrqData, Refusal, SetIrqs},
};

/// Kinds of interrupts a PCI device has: INTx, MSI, MSI-X, error, request.
pub const IRQ_KINDS: u32 = 5;
/// INTx.
pub const INTX: u32 = 0;
/// MSI-X.
pub const MSIX: u32 = 2;

/// An eventfd that cannot make its writer wait.
struct Eventfd {
    fd: Lent,
    notifier: Arc<Notifier>,
}

impl Eventfd {
    /// Checks that `fd` is one.
    fn new(fd: Lent, notifier: Arc<Notifier>) -> Result<Self, Refusal> {
        use std::os::fd::AsRawFd as _;
        let bad = |reason: String| Refusal::BadDescriptor { reason };
        let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
        let name = readlink(path, Vec::new()).map_err(|error| bad(format!("cannot examine it: {error}")))?;
        if name.as_bytes() != b"anon_inode:[eventfd]" {
            return Err(bad(format!("{} is not an eventfd", name.to_string_lossy())));
        }
        Ok(Self { fd, notifier })
    }

    fn signal(&self) {
        if let Err(error) = self.notifier.signal(self.fd.as_fd()) {
            tracing::debug!(%error, "eventfd");
        }
    }
}

#[derive(Default)]
struct State {
    vectors: Vec<Option<Eventfd>>,
    line: Option<Eventfd>,
    /// Made when the first eventfd comes.
    notifier: Option<Arc<Notifier>>,
    /// INTx has been signalled and not unmasked since.
    line_masked: bool,
    line_asserted: bool,
}

impl State {
    /// Checks that descriptors are eventfds.
    fn eventfds(&mut self, fds: Vec<Lent>) -> Result<Vec<Eventfd>, Refusal> {
        if fds.is_empty() {
            return Ok(Vec::new());
        }
        let notifier = match &self.notifier {
            Some(notifier) => notifier.clone(),
            None => {
                let made =
                    Notifier::new().map_err(|error| Refusal::Notifier { reason: error.to_string() })?;
                self.notifier.insert(Arc::new(made)).clone()
            }
        };
        fds.into_iter().map(|fd| Eventfd::new(fd, notifier.clone())).collect()
    }

    /// Signals an asserted INTx once; further ones wait for the client to unmask, as for a device of the kernel's.
    fn show_line(&mut self) {
        if self.line_asserted
            && !self.line_masked
            && let Some(line) = &self.line
        {
            line.signal();
            self.line_masked = true;
        }
    }
}

/// The interrupts of one device.
pub struct Irqs(Mutex<State>);

impl Irqs {
    /// Of a device with so many MSI-X vectors.
    pub fn new(vectors: u16) -> Self {
        let vectors = (0..vectors).map(|_| None).collect();
        Self(Mutex::new(State { vectors, ..State::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Fields are replaced whole, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many vectors of this kind there are; `None`: no such kind.
    pub fn count(&self, index: u32) -> Option<u32> {
        match index {
            INTX => Some(1),
            // At most MAX_VECTORS.
            MSIX => Some(self.lock().vectors.len() as u32),
            _ if index < IRQ_KINDS => Some(0),
            _ => None,
        }
    }

    /// Lets go of the client's descriptors.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.vectors.fill_with(|| None);
        state.line = None;
        state.line_masked = false;
    }

    /// Performs a SET_IRQS.
    ///
    /// # Errors
    /// When there are no such vectors, the action does not exist for them, or a descriptor is no eventfd; nothing has
    /// changed then.
    pub fn set(&self, request: &SetIrqs<'_>, fds: Vec<Lent>) -> Result<(), Refusal> {
        let SetIrqs { index, start, count, data, action } = *request;
        let no_index = Refusal::Index { index, start: start.into(), count: count.into() };
        let there = self.count(index).ok_or(no_index.clone())?;
        let end = start.checked_add(count).filter(|end| *end <= there).ok_or(no_index)?;
        let mut state = self.lock();
        let new = state.eventfds(fds)?;
        let range = start as usize..end as usize;
        match (index, action, data) {
            (_, IrqAction::Trigger, IrqData::None) if count == 0 => match index {
                MSIX => state.vectors.fill_with(|| None),
                INTX => state.line = None,
                _ => {}
            },
            (MSIX, IrqAction::Trigger, IrqData::Eventfds) => {
                let mut new = new.into_iter();
                state.vectors[range].fill_with(|| new.next());
            }
            (MSIX, IrqAction::Trigger, _) => {
                for (number, vector) in state.vectors[range].iter().enumerate() {
                    if chosen(data, number) {
                        vector.iter().for_each(Eventfd::signal);
                    }
                }
            }
            (INTX, IrqAction::Trigger, IrqData::Eventfds) if count == 1 => {
                state.line = new.into_iter().next();
                state.line_masked = false;
                state.show_line();
            }
            (INTX, IrqAction::Trigger, _) if chosen(data, 0) => state.line.iter().for_each(Eventfd::signal),
            (INTX, IrqAction::Mask, IrqData::None | IrqData::Bools(_)) if chosen(data, 0) => {
                state.line_masked = true;
            }
            (INTX, IrqAction::Unmask, IrqData::None | IrqData::Bools(_)) if chosen(data, 0) => {
                state.line_masked = false;
                state.show_line();
            }
            (INTX, _, IrqData::Bools(_)) => {}
            // Unmasking by eventfd among them: clients fall back to messages.
            _ => return Err(Refusal::Unsupported { command: vfio_user::Command::SetIrqs as u16 }),
        }
        Ok(())
    }
}

/// Whether the action is for the vector of this number.
fn chosen(data: IrqData<'_>, number: usize) -> bool {
    match data {
        IrqData::Bools(bools) => bools.get(number).is_some_and(|byte| *byte != 0),
        IrqData::None | IrqData::Eventfds => true,
    }
}

impl Signals for Irqs {
    fn message(&self, vector: u16, _message: Message) -> bool {
        match self.lock().vectors.get(usize::from(vector)) {
            Some(Some(eventfd)) => {
                eventfd.signal();
                true
            }
            _ => false,
        }
    }

    fn line(&self, asserted: bool) {
        let mut state = self.lock();
        state.line_asserted = asserted;
        state.show_line();
    }
}
