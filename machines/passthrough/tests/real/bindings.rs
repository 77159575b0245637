//! Taking devices over and giving them back, whatever happens in between.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use iommu_passthrough::{
    Container, ContainerError, PciDevice,
    bind::{self, Bound, Plan},
    sysfs::{SYSFS, VFIO_DRIVER},
    usage::Host,
};
use virtio_iommu::passthrough::Backend;

use crate::{
    HOLD,
    rig::{CHUNK, IOVA, JOURNALS, KernelLog, PAGE, bound, edu, mapping, net_cards, rig},
    trace::Trace,
};

pub(crate) fn an_unbound_device_is_not_taken() {
    let error = Container::open(&edu()).err().expect("it is bound to nothing");
    assert!(matches!(error, ContainerError::NotBound { driver: None, .. }), "{error}");
    assert!(error.to_string().contains("--bind"), "{error}");
}

pub(crate) fn another_drivers_device_is_not_taken() {
    let [card, _] = net_cards();
    let error = Container::open(&card).err().expect("virtio-pci has it");
    assert!(
        matches!(&error, ContainerError::NotBound { driver: Some(driver), .. } if driver == "virtio-pci"),
        "{error}"
    );
}

pub(crate) fn binding_is_done_and_undone() {
    let device = edu();
    let held = bound();
    assert_eq!(device.driver().as_deref(), Some(VFIO_DRIVER));
    assert_eq!(fs::read_dir(JOURNALS).unwrap().count(), 1);
    drop(held);
    assert_eq!(device.driver(), None);
    assert_eq!(fs::read_dir(JOURNALS).unwrap().count(), 0);
    // A card goes back to the driver it came from.
    let [card, _] = net_cards();
    let held = Bound::new(&card, Plan::new(&card, &Host::default()).unwrap(), Path::new(JOURNALS)).unwrap();
    assert_eq!(card.driver().as_deref(), Some(VFIO_DRIVER));
    drop(held);
    assert_eq!(card.driver().as_deref(), Some("virtio-pci"));
}

/// A device that shares its group with one that the host drives.
fn in_company() -> PciDevice {
    let all = PciDevice::all(Path::new(SYSFS)).unwrap();
    all.into_iter()
        .find(|device| {
            let edu = device.id().unwrap() == edu().id().unwrap();
            edu && device.companions().unwrap().iter().any(|other| other.driver().is_some())
        })
        .expect("the lab has such a device")
}

pub(crate) fn a_group_with_a_host_device_is_not_viable() {
    let device = in_company();
    let held =
        Bound::new(&device, Plan::new(&device, &Host::default()).unwrap(), Path::new(JOURNALS)).unwrap();
    let error = Container::open(&device).err().expect("the host drives the other");
    let ContainerError::NotViable { others, .. } = &error else { panic!("{error:?}") };
    assert!(others.iter().any(|other| other.contains("virtio-pci")), "{error}");
    drop(held);
    assert_eq!(device.driver(), None);
}

pub(crate) fn a_second_owner_is_refused() {
    let _rig = rig();
    let error = Container::open(&edu()).err().expect("the group has an owner");
    assert!(matches!(error, ContainerError::Group { .. }), "{error}");
    assert!(error.to_string().contains("another process"), "{error}");
}

/// A run that is killed while its device has mappings: this program again, as [`hold`].
pub(crate) fn a_killed_run_leaves_no_mapping_and_its_binding_is_undone() {
    let device = edu();
    let program = std::env::current_exe().unwrap();
    let mut run =
        Command::new(program).arg(HOLD).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(run.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "bound\n");
    let trace = Trace::of(run.id());
    drop(run.stdin.take());
    line.clear();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "mapped\n");
    run.kill().unwrap();
    run.wait().unwrap();
    let (traced, text) = trace.end();
    assert_eq!(traced.bytes_mapped, HELD_PAGES * PAGE, "{text}");
    assert_eq!(traced.bytes_unmapped, traced.bytes_mapped, "the kernel takes all mappings away: {text}");
    assert_eq!(device.driver().as_deref(), Some(VFIO_DRIVER), "nobody was there to undo it");
    assert!(Path::new(JOURNALS).join(format!("{}.json", device.address())).exists());
    assert_eq!(bind::recover(Path::new(JOURNALS)).unwrap(), [device.address().to_string()]);
    assert_eq!(device.driver(), None, "the next start has undone it");
    assert_eq!(fs::read_dir(JOURNALS).unwrap().count(), 0);
    // And the device reaches nothing of what it reached before.
    let rig = rig();
    rig.endpoint.show(&[]).unwrap();
    rig.fill(0, 0x3c);
    let mut log = KernelLog::from_now();
    rig.copy(IOVA, true);
    log.wait_for(&["DMAR", "DMA Write", "100000"], || rig.copy(IOVA, true));
    assert_eq!(rig.chunk(0), [0x3c; CHUNK]);
}

const HELD_PAGES: u64 = 16;

/// Holds a device with mappings until it is killed; maps when its standard input ends.
pub(crate) fn hold() -> ExitCode {
    let rig = rig();
    rig.endpoint.show(&[]).unwrap();
    println!("bound");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    rig.endpoint.map(&mapping(IOVA, HELD_PAGES * PAGE, 0, true)).unwrap();
    println!("mapped");
    loop {
        std::thread::park();
    }
}

pub(crate) fn unsafe_interrupts_are_refused_until_they_are_allowed() {
    const ALLOW: &str = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
    let device = edu();
    let held = bound();
    let error = Container::open(&device).err().expect("interrupts are not remapped in this boot");
    assert!(matches!(error, ContainerError::Iommu { .. }), "{error:?}");
    assert!(error.to_string().contains("allow_unsafe_interrupts=1"), "{error}");
    drop(held);
    assert_eq!(device.driver(), None, "and the device goes back");
    fs::write(ALLOW, "Y").unwrap();
    drop(rig());
}
