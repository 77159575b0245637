//! Descriptors whose system calls block: the server answers all the same, and so does it to the next client.

use std::{os::fd::AsFd, sync::mpsc, time::Duration};

mod common;
use common::*;
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
