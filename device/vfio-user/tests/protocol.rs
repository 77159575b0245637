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

/// Guest-set state is initial after a system reset (DEVICE_RESET) and for the next client; a driver's own reset keeps
/// what virtio and PCI keep.
#[test]
fn a_system_reset_and_a_new_client_find_everything_as_after_power_on() {
    const BYPASS: u64 = 0x2000 + 36;
    let rig = rig(PATIENCE);
    // Configuration space, common configuration but for the selectors' windows, vector table, bypass.
    let state = |client: &mut Client| {
        let parts = [(7, 0, 256), (0, 0x08, 0x30), (2, 0, 48), (0, BYPASS, 1)];
        parts.map(|(region, at, len)| {
            client.ask(REGION_READ, &access(region, at, len)).unwrap()[16..].to_vec()
        })
    };
    let write = |client: &mut Client, region, at, data: &[u8]| {
        let payload = [access(region, at, data.len() as u64), data.to_vec()].concat();
        client.ask(REGION_WRITE, &payload).unwrap();
    };
    // As a driver sets the function up, then writes `bypass`; BYPASS_CONFIG is feature bit 6, VERSION_1 bit 32.
    let program = |client: &mut Client| {
        write(client, 7, 0x10, &0xfe00_0000_u32.to_le_bytes());
        write(client, 7, 0x18, &0xfd00_0000_u32.to_le_bytes());
        write(client, 7, 4, &[6, 4]);
        write(client, 7, 0x3c, &[11]);
        write(client, 2, 16, &[0, 0x10, 0xe0, 0xfe, 0, 0, 0, 0, 0x41, 0, 0, 0, 0, 0, 0, 0]);
        write(client, 0, 0x14, &[3]);
        for (half, features) in [(0_u32, 1_u32 << 6), (1, 1)] {
            write(client, 0, 0x08, &half.to_le_bytes());
            write(client, 0, 0x0c, &features.to_le_bytes());
        }
        write(client, 0, 0x14, &[11]);
        write(client, 0, 0x10, &1_u16.to_le_bytes());
        write(client, 0, 0x16, &1_u16.to_le_bytes());
        write(client, 0, 0x1a, &2_u16.to_le_bytes());
        write(client, 0, 0x20, &[0x55; 8]);
        write(client, 0, BYPASS, &[0]);
    };
    let mut client = Client::new(&rig);
    let initial = state(&mut client);
    assert_eq!(initial[3], [1], "boot bypass");
    program(&mut client);
    let programmed = state(&mut client);
    for (part, (before, after)) in initial.iter().zip(&programmed).enumerate() {
        assert_ne!(before, after, "part {part} was programmed");
    }
    write(&mut client, 0, 0x14, &[0]);
    let kept = state(&mut client);
    assert_eq!((&kept[0], &kept[2], &kept[3]), (&programmed[0], &programmed[2], &programmed[3]));
    assert_eq!(kept[1], initial[1], "the driver's own reset");
    program(&mut client);
    client.ask(RESET, &[]).unwrap();
    assert_eq!(state(&mut client), initial, "DEVICE_RESET");
    program(&mut client);
    drop(client);
    assert_eq!(state(&mut Client::new(&rig)), initial, "the next client");
}

#[test]
fn the_socket_is_the_users_own_from_the_start() {
    use std::os::unix::fs::PermissionsExt as _;
    let rig = rig(PATIENCE);
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("mode.sock");
    let done = std::sync::atomic::AtomicBool::new(false);
    let modes = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut modes = std::collections::BTreeSet::new();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                modes.extend(std::fs::metadata(&path).map(|metadata| metadata.permissions().mode() & 0o777));
            }
            modes
        });
        for _ in 0..300 {
            let options = iommu_vfio_user::ServerOptions::default();
            drop(iommu_vfio_user::Server::start(&path, rig.device.clone(), options).unwrap());
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        watch.join().unwrap()
    });
    assert_eq!(modes.into_iter().collect::<Vec<_>>(), [0o600]);
}
