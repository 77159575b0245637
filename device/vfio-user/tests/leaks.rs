//! Resets and reconnects leave nothing behind. Alone in its process, so that it can count.

use std::{fs, os::fd::AsFd, time::Duration};

mod common;
use common::*;

/// Descriptors, threads and memory mappings of this process.
fn held() -> [usize; 3] {
    let entries = |path: &str| fs::read_dir(path).unwrap().count();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    // Heap arenas of threads come and go; guest memory and the reservation are what counts.
    let mappings =
        maps.lines().filter(|line| line.contains("memfd") || line.contains("---p 00000000")).count();
    [entries("/proc/self/fd"), entries("/proc/self/task"), mappings]
}

/// What is held once it is as expected, or after two seconds.
fn settled(expected: [usize; 3]) -> [usize; 3] {
    for _ in 0..200 {
        if held() == expected {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    held()
}

/// Resident memory in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn use_the_device(rig: &Rig, resets: usize) {
    let mut client = Client::new(rig);
    let ram = memfd(1 << 20);
    client.map(&ram, 0, 0x8_0000, 0).unwrap();
    client.map(&ram, 0x10_0000, 0x8_0000, 0x8_0000).unwrap();
    let fds = [eventfd(), eventfd(), eventfd()];
    client.ask_with(SET_IRQS, &set_irqs(0x24, 2, 0, 3), &fds.each_ref().map(AsFd::as_fd)).unwrap();
    let mut write = |at: u64, data: &[u8]| {
        let payload = [access(0, at, data.len() as u64), data.to_vec()].concat();
        client.ask(REGION_WRITE, &payload).unwrap();
    };
    for _ in 0..resets {
        write(0x14, &[3]);
        for half in [0_u32, 1] {
            write(0x08, &half.to_le_bytes());
            write(0x0c, &half.to_le_bytes());
        }
        write(0x14, &[11]);
        for queue in [0_u16, 1] {
            write(0x16, &queue.to_le_bytes());
            write(0x1a, &queue.to_le_bytes());
            for (area, at) in [(0x20, 0x1000_u64), (0x28, 0x3000), (0x30, 0x4000)] {
                write(area, &(at + 0x8000 * u64::from(queue)).to_le_bytes());
            }
            write(0x1c, &1_u16.to_le_bytes());
        }
        write(0x14, &[15]);
        write(0x3000, &0_u16.to_le_bytes());
        client_reset(&mut write);
    }
    client.ask(RESET, &[]).unwrap();
}

fn client_reset(write: &mut impl FnMut(u64, &[u8])) {
    write(0x14, &[0]);
}

#[test]
fn a_hundred_resets_and_twenty_reconnects() {
    let rig = rig(Duration::from_secs(30));
    // The first round brings what stays: caches, the thread's heap.
    use_the_device(&rig, 2);
    let gone = || {
        for _ in 0..1000 {
            if rig.device.space().regions() == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    gone();
    std::thread::sleep(Duration::from_millis(300));
    let (before, memory) = (held(), resident());
    for _ in 0..20 {
        use_the_device(&rig, 5);
        gone();
    }
    // Descriptors are closed on another thread.
    assert_eq!(settled(before), before, "descriptors, threads, mappings");
    let grown = resident().saturating_sub(memory);
    assert!(grown < 2048, "{grown} KiB more after 100 resets");
    assert_eq!(rig.server.counters().connections, 21);
    assert_eq!(rig.server.counters().refused, 0);
}
