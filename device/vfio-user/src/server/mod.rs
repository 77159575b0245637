//! A socket, its thread, and one client after the other.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::FileTypeExt as _,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fs::{Mode, fchmod},
    io::{Errno, write},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use thiserror::Error;

use crate::{Lent, PciDevice};

mod connection;

use connection::{Connection, Ended};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// How a server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// How long a message that has begun may take to arrive, and a reply to be taken.
    pub patience: Duration,
}

impl Default for ServerOptions {
    /// Five seconds.
    fn default() -> Self {
        Self { patience: Duration::from_secs(5) }
    }
}

/// A server could not be set up.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The socket cannot be made.
    #[error("cannot listen at {}", path.display())]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody listens there.
    #[error("{} is in use by another server; stop that, or choose another folder", path.display())]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// There is something that is no socket.
    #[error("{} exists and is no socket; remove it, or choose another folder", path.display())]
    NotASocket {
        /// Where.
        path: PathBuf,
    },
    /// No eventfd or no thread.
    #[error("cannot start the server's thread")]
    Thread(#[source] io::Error),
}

/// What a server counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerCounters {
    /// Clients that connected and were served.
    pub connections: u64,
    /// Clients that were turned away because another was being served.
    pub turned_away: u64,
    /// Messages that arrived whole.
    pub messages: u64,
    /// Of these, refused.
    pub refused: u64,
    /// Connections ended because the client sent what is no message, stalled, or did not take its replies.
    pub hung_up: u64,
}

#[derive(Default)]
struct LiveCounters {
    connections: AtomicU64,
    turned_away: AtomicU64,
    messages: AtomicU64,
    refused: AtomicU64,
    hung_up: AtomicU64,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// How the server's thread hears of its end: asleep by the eventfd, busy by the flag.
struct Stop {
    flag: AtomicBool,
    wake: OwnedFd,
}

/// Serves one device at one socket, one client at a time, until it is dropped.
pub struct Server {
    path: PathBuf,
    stop: Arc<Stop>,
    counters: Arc<LiveCounters>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `path`, for this user only. A socket that nobody listens at any more is replaced.
    ///
    /// # Errors
    /// When the socket or the thread cannot be had.
    pub fn start(path: &Path, device: Arc<PciDevice>, options: ServerOptions) -> Result<Self, ServerError> {
        let listener = listen(path)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| ServerError::Thread(error.into()))?;
        let stop = Arc::new(Stop { flag: AtomicBool::new(false), wake });
        let counters = Arc::new(LiveCounters::default());
        let body = Body { listener, stop: stop.clone(), device, options, counters: counters.clone() };
        let spawned = std::thread::Builder::new().name("vfio-user".to_owned()).spawn(move || body.run());
        let thread = spawned.map_err(ServerError::Thread)?;
        Ok(Self { path: path.to_owned(), stop, counters, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it counted.
    pub fn counters(&self) -> ServerCounters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ServerCounters {
            connections: of(&self.counters.connections),
            turned_away: of(&self.counters.turned_away),
            messages: of(&self.counters.messages),
            refused: of(&self.counters.refused),
            hung_up: of(&self.counters.hung_up),
        }
    }
}

impl Drop for Server {
    /// Hangs up, resets the device and removes the socket.
    fn drop(&mut self) {
        self.stop.flag.store(true, Ordering::Release);
        if let Err(error) = write(&self.stop.wake, &1_u64.to_ne_bytes()) {
            tracing::error!(%error, "cannot stop the server");
            return;
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the server's thread panicked");
        }
        // It may have been replaced or removed; nothing depends on it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Listens at `path`, for this user only from the first moment: Linux gives the socket's file the mode of the socket.
fn listen(path: &Path) -> Result<UnixListener, ServerError> {
    let bind = |source: io::Error| ServerError::Bind { path: path.to_owned(), source };
    let failed = |error: Errno| bind(error.into());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let new = || socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed);
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    if let Ok(metadata) = fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(ServerError::NotASocket { path: path.to_owned() });
        }
        // A server whose backlog is full answers AGAIN.
        if matches!(connect(&new()?, &address), Ok(()) | Err(Errno::AGAIN)) {
            return Err(ServerError::InUse { path: path.to_owned() });
        }
        fs::remove_file(path).map_err(bind)?;
    }
    let listener = new()?;
    fchmod(&listener, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    rustix::net::bind(&listener, &address).map_err(failed)?;
    rustix::net::listen(&listener, BACKLOG).map_err(failed)?;
    Ok(listener.into())
}

/// What the thread has.
struct Body {
    listener: UnixListener,
    stop: Arc<Stop>,
    device: Arc<PciDevice>,
    options: ServerOptions,
    counters: Arc<LiveCounters>,
}

impl Body {
    fn run(self) {
        self.serve_clients();
        // Closing it releases descriptors that waiting clients have sent.
        drop(Lent::from(OwnedFd::from(self.listener)));
    }

    fn serve_clients(&self) {
        loop {
            let mut fds =
                [PollFd::new(&self.stop.wake, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return tracing::error!(%error, "server stops: poll"),
            }
            if !fds[0].revents().is_empty() {
                return;
            }
            if fds[1].revents().is_empty() {
                continue;
            }
            if let Some(stream) = self.accept()
                && self.serve(stream)
            {
                return;
            }
        }
    }

    fn accept(&self) -> Option<UnixStream> {
        match self.listener.accept() {
            Ok((stream, _)) => Some(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => {
                virtio_transport::complain!(warn, %error, "cannot accept a client");
                // Out of descriptors, most likely: the client stays in line, others may leave meanwhile.
                std::thread::sleep(Duration::from_millis(10));
                None
            }
        }
    }

    /// Serves a client to its end; `true` when the server is to stop.
    fn serve(&self, stream: UnixStream) -> bool {
        add(&self.counters.connections);
        let device = self.device.function().device().device_id();
        tracing::info!(device, "client connected");
        let ended = Connection::new(self, stream).and_then(Connection::run);
        self.device.disconnect();
        let stop = matches!(ended, Ok(Ended::Stopped));
        match ended {
            Ok(Ended::Stopped | Ended::ByClient) => tracing::info!(device, "client disconnected"),
            Err(error) => {
                add(&self.counters.hung_up);
                virtio_transport::complain!(warn, device, %error, "hung up on the client");
            }
        }
        stop
    }

    /// A second client, while the first is being served.
    fn turn_away(&self) {
        if let Some(stream) = self.accept() {
            drop(Lent::from(OwnedFd::from(stream)));
            add(&self.counters.turned_away);
            virtio_transport::complain!(warn, "a second client was turned away: a device has one at a time");
        }
    }
}
