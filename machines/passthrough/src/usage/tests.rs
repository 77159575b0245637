use std::os::unix::fs::symlink;

use super::*;
use crate::sysfs::tests::{host as sys, of_class};

/// A made-up host with one device; nothing uses it.
struct Fake {
    root: tempfile::TempDir,
    folder: PathBuf,
}

fn free(_node: &Path, _number: &str) -> io::Result<()> {
    Ok(())
}

fn busy(_node: &Path, _number: &str) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}

fn busy_partition(node: &Path, number: &str) -> io::Result<()> {
    if file_name(node) == "nvme0n1p2" { busy(node, number) } else { Ok(()) }
}

fn denied(_node: &Path, _number: &str) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::EACCES))
}

fn without_medium(_node: &Path, _number: &str) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::ENOMEDIUM))
}

impl Fake {
    fn new(driver: &str, class: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = sys(root.path(), "0000:01:00.0", Some(driver));
        fs::write(folder.join("class"), class).unwrap();
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        fs::create_dir_all(root.path().join("dev")).unwrap();
        Self { root, folder }
    }

    /// One NVMe disk of two partitions.
    fn disk() -> Self {
        let fake = Self::new("nvme", "0x010802\n");
        fake.add_disk("nvme/nvme0/nvme0n1", "259:0");
        for (name, number) in [("nvme0n1p1", "259:1"), ("nvme0n1p2", "259:2")] {
            fake.add_disk(&format!("nvme/nvme0/nvme0n1/{name}"), number);
            fake.put(&format!("nvme/nvme0/nvme0n1/{name}/partition"), "1\n");
        }
        fake
    }

    /// One card with interface eth0, which is down.
    fn card() -> Self {
        let fake = Self::new("e1000e", "0x020000\n");
        of_class(&fake.folder.join("net/eth0"), "net");
        fake.put("net/eth0/flags", "0x1002\n");
        fake
    }

    fn add_disk(&self, place: &str, number: &str) {
        add_block(&self.folder.join(place), number);
    }

    /// Writes a file below the device.
    fn put(&self, place: &str, text: &str) {
        put(&self.folder.join(place), text);
    }

    fn put_proc(&self, place: &str, text: &str) {
        put(&self.root.path().join("proc").join(place), text);
    }

    fn used(&self, claim: fn(&Path, &str) -> io::Result<()>) -> Option<Use> {
        let device = PciDevice::new(self.root.path(), "01:00.0".parse().unwrap()).unwrap();
        let host = Host { proc: self.root.path().join("proc"), dev: self.root.path().join("dev"), claim };
        in_use(&device, &host).unwrap()
    }
}

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn add_block(folder: &Path, number: &str) {
    of_class(folder, "block");
    fs::create_dir(folder.join("holders")).unwrap();
    put(&folder.join("dev"), &format!("{number}\n"));
    put(&folder.join("uevent"), &format!("DEVNAME={}\n", file_name(folder)));
}

#[test]
fn what_nothing_uses_is_free() {
    assert_eq!(Fake::disk().used(free), None);
    assert_eq!(Fake::disk().used(without_medium), None);
    assert_eq!(Fake::card().used(free), None);
    let other = Fake::disk();
    // Names that begin alike, and a mount of another disk.
    other.put_proc(
        "1/mountinfo",
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / /x rw - ext4 /dev/nvme0n10 rw\n",
    );
    other.put_proc("swaps", "Filename\n/dev/nvme0n1p20 partition\n");
    assert_eq!(other.used(free), None);
}

#[test]
fn mounts_of_any_namespace_count_by_number_name_and_link() {
    for (process, line) in [
        ("self", "1 0 259:2 / /home rw - ext4 /dev/root rw"),
        ("77", "1 0 259:0 / /srv rw - xfs /dev/disk/other rw"),
        // btrfs has numbers of its own.
        ("9", "1 0 0:40 / /data rw - btrfs /dev/nvme0n1p1 rw"),
        ("9", "1 0 0:40 / /data rw - btrfs /dev/disk/by-uuid/1-2 rw"),
    ] {
        let fake = Fake::disk();
        fake.put_proc(&format!("{process}/mountinfo"), &format!("{line}\n"));
        let dev = fake.root.path().join("dev");
        put(&dev.join("nvme0n1p2"), "");
        fs::create_dir_all(dev.join("disk/by-uuid")).unwrap();
        symlink("../../nvme0n1p2", dev.join("disk/by-uuid/1-2")).unwrap();
        let found = fake.used(free);
        assert!(matches!(&found, Some(Use::Mounted { .. })), "{line}: {found:?}");
        assert!(found.unwrap().to_string().contains("umount"));
    }
}

#[test]
fn swap_holders_and_loop_devices_count() {
    let fake = Fake::disk();
    fake.put_proc("swaps", "Filename Type\n/dev/nvme0n1p1 partition 1 0 -2\n");
    assert_eq!(fake.used(free), Some(Use::Swap { disk: "/dev/nvme0n1p1".to_owned() }));
    for (disk, holder) in
        [("nvme0n1", "md0"), ("nvme0n1/nvme0n1p2", "dm-0"), ("nvme0n1/nvme0n1p1", "bcache0")]
    {
        let fake = Fake::disk();
        fs::create_dir_all(fake.folder.join("nvme/nvme0").join(disk).join("holders").join(holder)).unwrap();
        let found = fake.used(free);
        assert!(matches!(&found, Some(Use::Held { holder: found, .. }) if found == holder), "{found:?}");
    }
    let fake = Fake::disk();
    put(&fake.root.path().join("class/block/loop3/loop/backing_file"), "/dev/nvme0n1p2\n");
    let held = Use::Held { disk: "/dev/nvme0n1p2".to_owned(), holder: "loop3".to_owned() };
    assert_eq!(fake.used(free), Some(held));
}

#[test]
fn an_exclusive_open_is_the_last_word_and_doubt_is_use() {
    assert_eq!(Fake::disk().used(busy), Some(Use::Exclusive { disk: "/dev/nvme0n1".to_owned() }));
    assert_eq!(Fake::disk().used(busy_partition), Some(Use::Exclusive { disk: "/dev/nvme0n1p2".to_owned() }));
    assert!(matches!(Fake::disk().used(denied), Some(Use::Doubt { .. })));
    // A node that is missing cannot be asked.
    assert!(matches!(Fake::disk().used(disk::claim), Some(Use::Doubt { .. })));
}

#[test]
fn disks_far_below_a_controller_are_found() {
    let fake = Fake::new("ahci", "0x010601\n");
    fake.add_disk("ata1/host0/target0:0:0/0:0:0:0/block/sda", "8:0");
    assert_eq!(fake.used(busy), Some(Use::Exclusive { disk: "/dev/sda".to_owned() }));
    let usb = Fake::new("xhci_hcd", "0x0c0330\n");
    usb.add_disk("usb1/1-1/1-1.2/1-1.2:1.0/host6/target6:0:0/6:0:0:0/block/sdb", "8:16");
    assert_eq!(usb.used(busy), Some(Use::Exclusive { disk: "/dev/sdb".to_owned() }));
}

/// A path of a multipath disk below the device, the disk below its subsystem.
fn multipath() -> (Fake, PathBuf) {
    let fake = Fake::new("nvme", "0x010802\n");
    of_class(&fake.folder.join("nvme/nvme3"), "nvme");
    fake.add_disk("nvme/nvme3/nvme0c3n1", "259:7");
    fake.put("nvme/nvme3/nvme0c3n1/hidden", "1\n");
    let subsystem = fake.root.path().join("class/nvme-subsystem/nvme-subsys0");
    let head = subsystem.join("nvme0n1");
    add_block(&head, "259:0");
    symlink(fake.folder.join("nvme/nvme3"), subsystem.join("nvme3")).unwrap();
    (fake, head)
}

#[test]
fn a_multipath_disk_is_used_through_each_of_its_paths() {
    let (fake, _) = multipath();
    assert_eq!(fake.used(free), None);
    assert_eq!(fake.used(busy), Some(Use::Exclusive { disk: "/dev/nvme0n1".to_owned() }));
    let (fake, head) = multipath();
    fs::create_dir(head.join("holders/dm-1")).unwrap();
    assert!(matches!(fake.used(free), Some(Use::Held { .. })));
    let (fake, head) = multipath();
    add_block(&head.join("nvme0n1p1"), "259:1");
    fake.put_proc("5/mountinfo", "1 0 259:1 / / rw - ext4 /dev/nvme0n1p1 rw\n");
    assert!(matches!(fake.used(free), Some(Use::Mounted { .. })));
    // A kernel that does not show subsystems: the disk is found by name, or there is doubt.
    let (fake, head) = multipath();
    fs::remove_dir_all(fake.root.path().join("class/nvme-subsystem")).unwrap();
    assert!(matches!(fake.used(free), Some(Use::Doubt { .. })), "{head:?}");
    add_block(&fake.root.path().join("class/block/nvme0n1"), "259:0");
    assert_eq!(fake.used(free), None);
    assert!(matches!(fake.used(busy), Some(Use::Exclusive { .. })));
}

#[test]
fn nodes_that_a_process_has_open_count() {
    for node in ["nvme0n1", "nvme0n1p2"] {
        let fake = Fake::disk();
        let fds = fake.root.path().join("proc/12/fd");
        fs::create_dir_all(&fds).unwrap();
        symlink("/dev/null", fds.join("0")).unwrap();
        symlink(format!("/dev/{node}"), fds.join("5")).unwrap();
        assert_eq!(
            fake.used(free),
            Some(Use::Open { node: format!("/dev/{node}"), process: "12".to_owned() })
        );
    }
    // A card that a program drives through UIO.
    let fake = Fake::new("uio_pci_generic", "0x010802\n");
    fake.put("uio/uio0/uevent", "DEVNAME=uio0\n");
    assert_eq!(fake.used(free), None);
    fs::create_dir_all(fake.root.path().join("proc/3/fd")).unwrap();
    symlink("/dev/uio0", fake.root.path().join("proc/3/fd/4")).unwrap();
    assert!(matches!(fake.used(free), Some(Use::Open { .. })));
}

#[test]
fn interfaces_that_belong_to_others_count() {
    for link in ["master", "upper_bond0", "upper_eth0.5"] {
        let fake = Fake::card();
        symlink("../../virtual/net/bond0", fake.folder.join("net/eth0").join(link)).unwrap();
        assert!(matches!(fake.used(free), Some(Use::Enslaved { .. })), "{link}");
    }
    for folder in ["brport", "bonding_slave"] {
        let fake = Fake::card();
        fs::create_dir(fake.folder.join("net/eth0").join(folder)).unwrap();
        assert!(matches!(fake.used(free), Some(Use::Enslaved { .. })), "{folder}");
    }
    // The second of two interfaces counts like the first.
    let fake = Fake::card();
    of_class(&fake.folder.join("net/eth1"), "net");
    fake.put("net/eth1/flags", "0x1003\n");
    assert_eq!(fake.used(free), Some(Use::Up { interface: "eth1".to_owned() }));
    // One that does not say whether it is up counts as up.
    let fake = Fake::card();
    fake.put("net/eth0/flags", "no number\n");
    assert_eq!(fake.used(free), Some(Use::Up { interface: "eth0".to_owned() }));
}

#[test]
fn default_routes_of_both_families_count() {
    let zero = "0".repeat(32);
    for (file, text) in [
        ("net/route", "Iface\neth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\n".to_owned()),
        ("net/ipv6_route", format!("{zero} 00 {zero} 00 {zero} 400 1 0 00000003 eth0\n")),
    ] {
        let fake = Fake::card();
        fake.put_proc(file, &text);
        assert_eq!(fake.used(free), Some(Use::DefaultRoute { interface: "eth0".to_owned() }), "{file}");
        fake.put_proc(file, &text.replace("eth0", "eth00"));
        assert_eq!(fake.used(free), None, "{file}: another's");
    }
}

#[test]
fn a_card_whose_interfaces_are_not_here_is_elsewhere() {
    let elsewhere = |driver: &str| Some(Use::Elsewhere { driver: driver.to_owned() });
    let fake = Fake::new("e1000e", "0x020000\n");
    assert_eq!(fake.used(free), elsewhere("e1000e"), "no folder of interfaces at all");
    fs::create_dir(fake.folder.join("net")).unwrap();
    assert_eq!(fake.used(free), elsewhere("e1000e"), "an empty one");
    // A USB network card behind its controller.
    let usb = Fake::new("xhci_hcd", "0x0c0330\n");
    fs::create_dir_all(usb.folder.join("usb1/1-1/1-1:1.0/net")).unwrap();
    assert_eq!(usb.used(free), elsewhere("xhci_hcd"));
    // A virtio card is its virtio driver's.
    let virtio = Fake::new("virtio-pci", "0x020000\n");
    of_class(&virtio.folder.join("virtio0"), "virtio");
    assert_eq!(virtio.used(free), None, "no driver has the virtio device");
    symlink("/sys/bus/virtio/drivers/virtio_net", virtio.folder.join("virtio0/driver")).unwrap();
    assert_eq!(virtio.used(free), elsewhere("virtio_net"));
    assert_eq!(Fake::new("pci-stub", "0x020000\n").used(free), None);
}

#[test]
fn virtual_functions_go_with_their_device() {
    let fake = Fake::card();
    fake.put("sriov_numvfs", "0\n");
    assert_eq!(fake.used(free), None);
    fake.put("sriov_numvfs", "4\n");
    assert_eq!(fake.used(free), Some(Use::VirtualFunctions { count: 4 }));
}

/// A real loop device, detached when this is dropped.
struct Loop {
    path: String,
    _file: tempfile::NamedTempFile,
}

impl Loop {
    fn new() -> Result<Self, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let mut command = std::process::Command::new("losetup");
        let output = command.args(["--find", "--show"]).arg(file.path()).output();
        let output = output.map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Self { path, _file: file })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["--detach", &self.path]).status();
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "a test that cannot run here says so")]
fn a_real_disk_is_refused_while_it_is_claimed() {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let disk = match Loop::new() {
        Ok(disk) => disk,
        Err(why) => {
            eprintln!("SKIPPED: no loop device here: {why}");
            return;
        }
    };
    let number = fs::metadata(&disk.path).unwrap().rdev();
    let number = format!("{}:{}", libc::major(number), libc::minor(number));
    let fake = Fake::new("ahci", "0x010601\n");
    let name = file_name(Path::new(&disk.path));
    fake.add_disk(&format!("block/{name}"), &number);
    let device = PciDevice::new(fake.root.path(), "01:00.0".parse().unwrap()).unwrap();
    let host = Host { proc: fake.root.path().join("proc"), ..Host::default() };
    assert_eq!(in_use(&device, &host).unwrap(), None);
    let claim = fs::File::options().read(true).custom_flags(libc::O_EXCL).open(&disk.path).unwrap();
    assert_eq!(in_use(&device, &host).unwrap(), Some(Use::Exclusive { disk: disk.path.clone() }));
    // By the processes of this machine: this one has it open.
    let opened = in_use(&device, &Host { claim: free, ..Host::default() }).unwrap();
    let this = std::process::id().to_string();
    assert_eq!(opened, Some(Use::Open { node: disk.path.clone(), process: this }));
    drop(claim);
    assert_eq!(in_use(&device, &host).unwrap(), None);
    // A node of another device gives no answer.
    fake.put(&format!("block/{name}/dev"), "7:4095\n");
    assert!(matches!(in_use(&device, &host).unwrap(), Some(Use::Doubt { .. })));
}
