//! One client, from its first byte to its last.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixStream},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send},
};
use thiserror::Error;

use super::{Body, add};
use crate::{
    Lent, Session, aside,
    frame::{Frame, FrameError, Framer},
};

/// Most descriptors that the kernel passes at once (SCM_MAX_FD). There is room for all of them: the kernel closes those
/// that do not fit on the receiving thread.
const KERNEL_MAX_FDS: usize = 253;

/// Why a client was hung up on.
#[derive(Debug, Error)]
pub(super) enum HangUp {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a message that had begun did not arrive within {0:?}")]
    Stalled(Duration),
    #[error("replies were not taken within {0:?}")]
    Deaf(Duration),
    #[error("the device panicked while it served a message")]
    Panic,
    #[error("its memory could not be accessed: a hole that cannot be filled, or failed memory")]
    MemoryLost,
    #[error(
        "too many descriptors of clients cannot be closed, since a file system or another process does not answer"
    )]
    Overdue,
    #[error("the socket failed")]
    Socket(#[from] io::Error),
}

/// How a connection ended in order.
pub(super) enum Ended {
    /// The client closed it.
    ByClient,
    /// The server is to stop.
    Stopped,
}

/// What woke the connection up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    Readable,
    Stop,
    /// Another client, while this one is there.
    Another,
    Nothing,
}

/// What it means that stop, stream and listener were seen ready, one looked at after the other: this client may have left,
/// and the next one come, between the last two. So the stream is looked at again before anybody is turned away.
fn woken(
    [stop, stream, listener]: [bool; 3],
    look_again: impl FnOnce() -> Result<bool, HangUp>,
) -> Result<Woken, HangUp> {
    Ok(match () {
        () if stop => Woken::Stop,
        // The client that leaves goes before the one that comes.
        () if stream || listener && look_again()? => Woken::Readable,
        () if listener => Woken::Another,
        () => Woken::Nothing,
    })
}

/// What came of one attempt to receive.
enum Received {
    Some,
    /// Nothing is there at the moment.
    Nothing,
    Closed,
}

pub(super) struct Connection<'s> {
    server: &'s Body,
    /// Closing it releases descriptors that were not received.
    stream: Lent,
    framer: Framer,
    /// When the message at hand began to arrive.
    began: Option<Instant>,
    session: Session,
    buffer: Vec<u8>,
    /// Accesses to guest memory that failed before this client.
    lost: u64,
}

impl<'s> Connection<'s> {
    pub(super) fn new(server: &'s Body, stream: UnixStream) -> Result<Self, HangUp> {
        let nonblocking = stream.set_nonblocking(true);
        let stream = Lent::from(OwnedFd::from(stream));
        nonblocking?;
        if aside::is_overdue() {
            return Err(HangUp::Overdue);
        }
        Ok(Self {
            server,
            stream,
            framer: Framer::default(),
            began: None,
            session: Session::new(),
            buffer: vec![0; 4096],
            lost: server.device.space().lost(),
        })
    }

    pub(super) fn run(mut self) -> Result<Ended, HangUp> {
        loop {
            match self.receive()? {
                // A client that never pauses does not keep the server from stopping.
                Received::Some if self.server.stop.flag.load(Ordering::Acquire) => return Ok(Ended::Stopped),
                Received::Some => continue,
                Received::Closed => return Ok(Ended::ByClient),
                Received::Nothing => {}
            }
            match self.wait()? {
                Woken::Stop => return Ok(Ended::Stopped),
                Woken::Readable | Woken::Another | Woken::Nothing => {}
            }
            let patience = self.server.options.patience;
            if self.began.is_some_and(|began| began.elapsed() >= patience) {
                return Err(HangUp::Stalled(patience));
            }
        }
    }

    /// Sleeps until the client has sent something, the message at hand is overdue, or the server is to stop.
    fn wait(&self) -> Result<Woken, HangUp> {
        let left = self.began.map(|began| self.server.options.patience.saturating_sub(began.elapsed()));
        let mut fds = [
            PollFd::new(&self.server.stop.wake, PollFlags::IN),
            PollFd::new(&self.stream, PollFlags::IN),
            PollFd::new(&self.server.listener, PollFlags::IN),
        ];
        wait_for(&mut fds, left)?;
        let seen = fds.map(|fd| !fd.revents().is_empty());
        let woken = woken(seen, || self.is_readable())?;
        if woken == Woken::Another {
            self.server.turn_away();
        }
        Ok(woken)
    }

    /// Whether the client has sent something or left, without waiting for it.
    fn is_readable(&self) -> Result<bool, HangUp> {
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
        match poll(&mut fds, Some(&Timespec::default())) {
            Ok(ready) => Ok(ready != 0),
            // It is looked at again.
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Receives once; serves the message if that completes one.
    fn receive(&mut self) -> Result<Received, HangUp> {
        let wanted = self.framer.wanted().min(self.buffer.len());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KERNEL_MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut pieces = [IoSliceMut::new(&mut self.buffer[..wanted])];
        let message = match recvmsg(&self.stream, &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => message,
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            Err(Errno::INTR) => return Ok(Received::Some),
            Err(Errno::CONNRESET) => return Ok(Received::Closed),
            Err(error) => return Err(io::Error::from(error).into()),
        };
        let fds: Vec<Lent> = control.drain().flat_map(descriptors).collect();
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(FrameError::TooManyFds.into());
        }
        if aside::is_overdue() {
            return Err(HangUp::Overdue);
        }
        if message.bytes == 0 {
            return Ok(Received::Closed);
        }
        self.began.get_or_insert_with(Instant::now);
        let frame = match self.framer.push(&self.buffer[..message.bytes], fds) {
            Ok(frame) => frame,
            Err(error) => {
                self.say_goodbye(&error);
                return Err(error.into());
            }
        };
        if let Some(frame) = frame {
            self.began = None;
            self.serve(frame)?;
        }
        Ok(Received::Some)
    }

    fn serve(&mut self, frame: Frame) -> Result<(), HangUp> {
        let counters = &self.server.counters;
        add(&counters.messages);
        let command = frame.header.command;
        let served = catch_unwind(AssertUnwindSafe(|| self.session.handle(&self.server.device, frame)));
        let (reply, refusal) = served.map_err(|_| HangUp::Panic)?;
        if let Some(refusal) = refusal {
            add(&counters.refused);
            // Of all connections together: a client may come again with each message.
            virtio_transport::complain!(warn, command, %refusal, "message refused");
        }
        if self.server.device.space().lost() != self.lost {
            return Err(HangUp::MemoryLost);
        }
        reply.map_or(Ok(()), |reply| self.send(&reply))
    }

    fn send(&self, mut bytes: &[u8]) -> Result<(), HangUp> {
        let (started, patience) = (Instant::now(), self.server.options.patience);
        while !bytes.is_empty() {
            match send(&self.stream, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let left = patience.saturating_sub(started.elapsed());
                    if left.is_zero() {
                        return Err(HangUp::Deaf(patience));
                    }
                    wait_for(&mut [PollFd::new(&self.stream, PollFlags::OUT)], Some(left))?;
                }
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(())
    }

    /// Tells the client, if it listens at all, that its message was none.
    fn say_goodbye(&self, error: &FrameError) {
        if let FrameError::Size { header } = error {
            let reply = crate::reply::Reply::refusing(header, Errno::MSGSIZE.raw_os_error().unsigned_abs());
            if let Err(error) = send(&self.stream, &reply, SendFlags::NOSIGNAL) {
                tracing::debug!(%error, "the client does not listen");
            }
        }
    }
}

fn descriptors(message: RecvAncillaryMessage<'_>) -> Vec<Lent> {
    match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.map(Lent::from).collect(),
        _ => Vec::new(),
    }
}

fn wait_for(fds: &mut [PollFd<'_>], left: Option<Duration>) -> Result<(), HangUp> {
    // A little longer rather than a little shorter, so that nobody polls in circles at the end.
    let left = left.and_then(|left| Timespec::try_from(left + Duration::from_millis(1)).ok());
    match poll(fds, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_left_unseen_goes_before_the_one_that_comes() {
        let of = |seen, again| woken(seen, || Ok(again)).unwrap();
        assert_eq!(of([false, false, true], true), Woken::Readable);
        assert_eq!(of([false, false, true], false), Woken::Another);
        assert_eq!(of([false, true, true], false), Woken::Readable);
        assert_eq!((of([true; 3], true), of([false; 3], true)), (Woken::Stop, Woken::Nothing));
    }
}
