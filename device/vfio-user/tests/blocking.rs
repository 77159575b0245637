//! Descriptors whose system calls block: the server answers all the same, and so does it to the next client.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::mpsc,
    time::{Duration, Instant},
};

mod common;
#[path = "common/deaf.rs"]
mod deaf;
use common::*;
use deaf::DeafFile;
use rustix::{
    event::{EventfdFlags, eventfd as new_eventfd},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// What counts as an answer at once, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// Runs `test` and fails, rather than hangs, when it takes too long.
fn within(limit: Duration, test: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    match wait.recv_timeout(limit) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("blocked for {limit:?}"),
        _ => thread.join().unwrap(),
    }
}

#[test]
fn a_full_eventfd_that_the_client_made_blocking_does_not_block() {
    let _turn = deaf::turn();
    within(SOON, || {
        use virtio_transport::pci::Signals as _;
        let rig = rig(PATIENCE);
        let mut client = Client::new(&rig);
        let fds = [0; 3].map(|_| new_eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        client.ask_with(SET_IRQS, &set_irqs(0x24, 2, 0, 3), &fds.each_ref().map(AsFd::as_fd)).unwrap();
        client.ask_with(SET_IRQS, &set_irqs(0x24, 0, 0, 1), &[fds[0].as_fd()]).unwrap();
        for fd in &fds {
            let flags = fcntl_getfl(fd).unwrap();
            fcntl_setfl(fd, flags - OFlags::NONBLOCK).unwrap();
            rustix::io::write(fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        }
        client.ask(SET_IRQS, &set_irqs(0x21, 2, 0, 3)).unwrap();
        rig.device.irqs().line(true);
        let message = virtio_transport::pci::Message { address: 0, data: 0 };
        (0..3).for_each(|vector| assert!(rig.device.irqs().message(vector, message)));
        assert!(client.ask(GET_INFO, &[0; 16]).is_ok());
        let blocking = fcntl_getfl(&fds[0]).unwrap();
        assert!(!blocking.contains(OFlags::NONBLOCK), "the client's flags are the client's");
    });
}

/// Sends the descriptor wherever one can be sent, wanted or not, and hangs up with one in line.
fn send_everywhere(rig: &Rig, fd: BorrowedFd<'_>) {
    let mut client = Client::new(rig);
    for flags in [1, 3] {
        assert_eq!(client.ask_with(DMA_MAP, &dma_map(0, 0x1000, 0, flags), &[fd]), Err(EBADF));
    }
    for index in [0, 2] {
        assert_eq!(client.ask_with(SET_IRQS, &set_irqs(0x24, index, 0, 1), &[fd]), Err(EBADF));
    }
    for (command, payload) in [(GET_INFO, &[0; 16][..]), (RESET, &[]), (99, &[])] {
        assert_eq!(client.ask_with(command, payload, &[fd]), Err(EINVAL), "{command}");
    }
    // Never received, or received with a message that is not one.
    client.post(REGION_READ, 0, &[], &[fd]);
    client.post(GET_INFO, 0, &[0; 16], &[fd, fd]);
    drop(client);
}

/// The next client gets memory mapped, an interrupt and an answer.
fn serves_soon(rig: &Rig) {
    let started = Instant::now();
    let mut client = Client::new(rig);
    let ram = memfd(0x4000);
    client.map(&ram, 0, 0x4000, 0).unwrap();
    let fd = eventfd();
    client.ask_with(SET_IRQS, &set_irqs(0x24, 2, 0, 1), &[fd.as_fd()]).unwrap();
    client.ask(SET_IRQS, &set_irqs(0x21, 2, 0, 1)).unwrap();
    assert_eq!(signalled(&fd), 1);
    assert!(client.ask(GET_INFO, &[0; 16]).is_ok());
    assert!(started.elapsed() < SOON / 2, "{:?}", started.elapsed());
}

/// A file whose file system never answers: `close` alone (FLUSH) would wait for good.
#[test]
fn a_file_of_the_clients_own_file_system_does_not_block() {
    let _turn = deaf::turn();
    let Some(deaf) = DeafFile::new() else { return };
    within(SOON, move || {
        let rig = rig(PATIENCE);
        send_everywhere(&rig, deaf.file().as_fd());
        serves_soon(&rig);
        // The server's end does not wait for it, either.
        drop(rig);
        drop(deaf);
    });
}

/// Memory that another thread of the client's writes to for good: a seal cannot be added, and waiting for that ends. Memory
/// that has one already is mapped at once.
#[test]
fn memory_that_stays_locked_does_not_block() {
    let _turn = deaf::turn();
    let Some(deaf) = DeafFile::new() else { return };
    within(SOON, move || {
        let rig = rig(PATIENCE);
        let (open, sealed) = (memfd(0x4000), memfd(0x4000));
        rustix::fs::fcntl_add_seals(&sealed, rustix::fs::SealFlags::SHRINK).unwrap();
        let writers = [&open, &sealed].map(|file| deaf.write_to(file));
        // Until both are at it.
        std::thread::sleep(Duration::from_millis(300));
        let mut client = Client::new(&rig);
        let started = Instant::now();
        client.map(&sealed, 0, 0x4000, 0).unwrap();
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        assert_eq!(client.map(&open, 0x4000, 0x4000, 0), Err(EBADF));
        assert!(started.elapsed() >= Duration::from_secs(1), "the memory is locked");
        drop(client);
        serves_soon(&rig);
        assert!(writers.iter().all(|writer| !writer.is_finished()));
        drop(deaf);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
}

/// What else a descriptor can be: pipes full and empty, a socket, another eventfd-like file, descriptors without access.
#[test]
fn descriptors_of_all_kinds_are_refused_at_once() {
    let _turn = deaf::turn();
    use rustix::fs::{Mode, open};
    let rig = rig(PATIENCE);
    let folder = tempfile::TempDir::new().unwrap();
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .unwrap();
    let fifo = open(&fifo, OFlags::RDWR, Mode::empty()).unwrap();
    let pipe = std::io::pipe().unwrap();
    let socket = std::os::unix::net::UnixStream::pair().unwrap();
    let path_only = open("/proc/self/exe", OFlags::PATH, Mode::empty()).unwrap();
    let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
    let folder = open("/", OFlags::RDONLY, Mode::empty()).unwrap();
    let memory = memfd(0x1000);
    let memory_path = open(
        format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory)),
        OFlags::PATH,
        Mode::empty(),
    );
    for fd in [
        fifo.as_fd(),
        pipe.0.as_fd(),
        pipe.1.as_fd(),
        socket.0.as_fd(),
        path_only.as_fd(),
        epoll.as_fd(),
        folder.as_fd(),
        memory_path.unwrap().as_fd(),
    ] {
        send_everywhere(&rig, fd);
        serves_soon(&rig);
    }
}
