//! What a client in order gets, from the protocol's other implementation and from our own bytes.

use std::{
    os::{fd::AsFd, unix::fs::FileExt},
    time::Duration,
};

mod common;
use common::*;
use virtio_iommu::{
    dma::{Access, DmaMemory},
    memory::GuestRam,
};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn another_implementations_client_gets_along() {
    let rig = rig(PATIENCE);
    let mut client = vfio_user::Client::new(&rig.path).unwrap();
    assert_eq!(client.region(7).unwrap().size, 256);
    assert_eq!(client.region(0).unwrap().size, 0x4000);
    assert_eq!(client.get_irq_info(2).unwrap().count, 3, "MSI-X: two queues and configuration");
    let mut id = [0; 4];
    client.region_read(7, 0, &mut id).unwrap();
    assert_eq!(id, [0xf4, 0x1a, 0x57, 0x10]);
    let ram = memfd(0x10000);
    use std::os::fd::AsRawFd as _;
    client.dma_map(0x8000, 1 << 32, 0x8000, ram.as_raw_fd()).unwrap();
    assert_eq!((rig.device.space().regions(), rig.device.space().mapped_bytes()), (1, 0x8000));
    client.region_write(0, 0x14, &[3]).unwrap();
    let mut status = [0];
    client.region_read(0, 0x14, &mut status).unwrap();
    assert_eq!(status, [3]);
    client.reset().unwrap();
    client.region_read(0, 0x14, &mut status).unwrap();
    assert_eq!(status, [0]);
    client.dma_unmap(1 << 32, 0x8000).unwrap();
    assert_eq!(rig.device.space().regions(), 0);
    client.shutdown().unwrap();
}

#[test]
fn what_is_mapped_is_what_the_device_reaches() {
    let rig = rig(PATIENCE);
    let mut client = Client::new(&rig);
    let ram = memfd(0x4000);
    client.map(&ram, 0x10_0000, 0x2000, 0x1000).unwrap();
    let view = GuestRam::of_space(rig.device.space().clone());
    view.write(0x10_0ffe, b"over").unwrap();
    let mut found = [0; 4];
    ram.read_exact_at(&mut found, 0x1ffe).unwrap();
    assert_eq!(&found, b"over");
    // Read-only memory, with a file and without.
    client.ask_with(DMA_MAP, &dma_map(0xf000, 0x1000, 0, 1), &[ram.as_fd()]).unwrap();
    assert!(view.slice(0xf000, 1, Access::Read).is_ok() && view.slice(0xf000, 1, Access::Write).is_err());
    client.ask(DMA_MAP, &dma_map(0xc0000, 0x20000, 0, 1)).unwrap();
    assert!(view.slice(0xc0000, 1, Access::Read).is_err(), "known, but out of reach");
    client.ask(DMA_UNMAP, &dma_unmap(0xc0000, 0x20000, 0)).unwrap();
    client.ask(DMA_UNMAP, &dma_unmap(0, 0, 2)).unwrap();
    assert_eq!(rig.device.space().regions(), 0);
}

#[test]
fn interrupts_reach_the_eventfds_they_were_given() {
    let rig = rig(PATIENCE);
    let mut client = Client::new(&rig);
    let fds = [eventfd(), eventfd(), eventfd()];
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    client.ask_with(SET_IRQS, &set_irqs(0x24, 2, 0, 3), &borrowed).unwrap();
    // Triggered by the client itself, one and then all but the first.
    client.ask(SET_IRQS, &set_irqs(0x21, 2, 1, 1)).unwrap();
    client.ask(SET_IRQS, &[set_irqs(0x22, 2, 0, 3), vec![0, 1, 1]].concat()).unwrap();
    assert_eq!(fds.each_ref().map(signalled), [0, 2, 1]);
    client.ask(SET_IRQS, &set_irqs(0x21, 2, 0, 0)).unwrap();
    client.ask(SET_IRQS, &set_irqs(0x21, 2, 0, 3)).unwrap();
    assert_eq!(fds.each_ref().map(signalled), [0; 3], "they were taken back");
}

#[test]
fn intx_is_masked_when_it_fires_and_comes_again_while_it_is_up() {
    use virtio_transport::pci::Signals as _;
    let rig = rig(PATIENCE);
    let mut client = Client::new(&rig);
    let fd = eventfd();
    client.ask_with(SET_IRQS, &set_irqs(0x24, 0, 0, 1), &[fd.as_fd()]).unwrap();
    rig.device.irqs().line(true);
    rig.device.irqs().line(false);
    rig.device.irqs().line(true);
    assert_eq!(signalled(&fd), 1, "masked until the client unmasks");
    client.ask(SET_IRQS, &set_irqs(0x11, 0, 0, 1)).unwrap();
    assert_eq!(signalled(&fd), 1, "it is still up");
    rig.device.irqs().line(false);
    client.ask(SET_IRQS, &set_irqs(0x11, 0, 0, 1)).unwrap();
    assert_eq!(signalled(&fd), 0);
}

#[test]
fn the_device_says_what_it_is() {
    let rig = rig(PATIENCE);
    let mut client = Client::new(&rig);
    let info = client.ask(GET_INFO, &[0; 16]).unwrap();
    // Can be reset, is a PCI device; nine regions, five kinds of interrupts.
    assert_eq!(info, fields(&[(16, 4), (3, 4), (9, 4), (5, 4)]));
    let irq = client.ask(IRQ_INFO, &fields(&[(16, 4), (0, 4), (0, 4), (0, 4)])).unwrap();
    assert_eq!(
        irq,
        fields(&[(16, 4), (7, 4), (0, 4), (1, 4)]),
        "INTx: eventfd, maskable, masked when it fires"
    );
}

#[test]
fn posted_writes_get_no_reply() {
    let rig = rig(PATIENCE);
    let mut client = Client::new(&rig);
    for status in [1, 3] {
        client.post(REGION_WRITE, 0x10, &[access(0, 0x14, 1), vec![status]].concat(), &[]);
    }
    client.post(REGION_WRITE, 0x10, &access(99, 0, 0), &[]);
    let status = client.ask(REGION_READ, &access(0, 0x14, 1)).unwrap();
    assert_eq!(status[16..], [3], "one reply, to the read");
}

#[test]
fn a_message_in_pieces_is_a_message() {
    use std::io::Write as _;
    let rig = rig(PATIENCE);
    let mut client = Client::new(&rig);
    let message = [header(101, REGION_READ, 32, 0), access(7, 0, 2)].concat();
    for byte in &message[..31] {
        client.stream.write_all(&[*byte]).unwrap();
    }
    std::thread::sleep(Duration::from_millis(20));
    client.stream.write_all(&message[31..]).unwrap();
    let mut reply = [0; 34];
    std::io::Read::read_exact(&mut client.stream, &mut reply).unwrap();
    assert_eq!(reply[32..], [0xf4, 0x1a]);
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    use iommu_vfio_user::{Server, ServerError, ServerOptions};
    let rig = rig(PATIENCE);
    let again = Server::start(&rig.path, rig.device.clone(), ServerOptions::default());
    assert!(matches!(again, Err(ServerError::InUse { .. })));
    let folder = tempfile::TempDir::new().unwrap();
    let stale = folder.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    drop(Server::start(&stale, rig.device.clone(), ServerOptions::default()).unwrap());
    assert!(!stale.exists(), "removed when it is done");
    std::fs::write(&stale, "mine").unwrap();
    let refused = Server::start(&stale, rig.device.clone(), ServerOptions::default());
    assert!(matches!(refused, Err(ServerError::NotASocket { .. })));
}
