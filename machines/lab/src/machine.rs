//! The emulated host: processors, memory, IOMMU, devices, and QEMU's command line for them.

use std::{path::Path, process::Command};

use crate::{
    accel::Accel,
    job::{EXIT_PORT, INIT_COMMAND, PORT},
    prepare::Lab,
};

/// What the emulated host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Processors.
    pub cpus: u16,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Further words of the kernel's command line, such as `iommu.strict=0`.
    pub kernel_args: Vec<String>,
    /// How its instructions are run.
    pub accel: Accel,
}

impl Default for Machine {
    fn default() -> Self {
        Self { cpus: 2, memory_mib: 3072, kernel_args: Vec::new(), accel: crate::accel::best() }
    }
}

/// The disk that is there to be passed through, with its file: always at this address.
const DISK: &str = "nvme,drive=disk,serial=lab,addr=10";
/// Bytes of that disk.
pub(crate) const DISK_BYTES: u64 = 64 << 20;
/// Bytes of it that are not zero at first: block after block of 512 bytes, each its number over and over.
pub(crate) const DISK_PATTERN_BYTES: u64 = 1 << 20;

/// Other devices that are there to be passed through: QEMU's teaching device, and two network cards on one wire; and, behind
/// those in address, a teaching device that shares its group with a device of the host's.
const DEVICES: [(&str, &str); 7] = [
    ("-device", "edu"),
    ("-device", "edu,addr=1e.0,multifunction=on"),
    ("-device", "virtio-rng-pci,addr=1e.1,disable-legacy=on"),
    ("-netdev", "hubport,id=left,hubid=0"),
    (
        "-device",
        "virtio-net-pci,netdev=left,mac=52:54:00:00:00:01,iommu_platform=on,disable-legacy=on,romfile=",
    ),
    ("-netdev", "hubport,id=right,hubid=0"),
    (
        "-device",
        "virtio-net-pci,netdev=right,mac=52:54:00:00:00:02,iommu_platform=on,disable-legacy=on,romfile=",
    ),
];

impl Machine {
    /// QEMU, about to boot `lab` with `initramfs`; its console goes to the file `console`, its disk is the file `disk`, the line to the guest is its
    /// standard input and output.
    pub(crate) fn command(&self, lab: &Lab, initramfs: &Path, console: &Path, disk: &Path) -> Command {
        let mut qemu = lab.qemu.command();
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"]);
        qemu.args(["-monitor", "none", "-name", "iommu-bench-lab"]);
        match self.accel {
            // Posted interrupts of the split irqchip are what VT-d's interrupt remapping needs.
            Accel::Kvm => qemu.args(["-machine", "q35,accel=kvm,kernel-irqchip=split", "-cpu", "host"]),
            // Without five-level page tables: every miss of the translator's would walk one level more.
            Accel::Tcg { .. } => {
                qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off"])
            }
        };
        qemu.arg("-smp").arg(self.cpus.to_string()).arg("-m").arg(self.memory_mib.to_string());
        qemu.arg("-kernel").arg(&lab.kernel).arg("-initrd").arg(initramfs);
        qemu.arg("-append").arg(self.kernel_command_line());
        qemu.arg("-chardev").arg(chardev_file("console", console)).args(["-serial", "chardev:console"]);
        qemu.args(["-chardev", "stdio,id=line,signal=off", "-device", "virtio-serial-pci"]);
        qemu.arg("-device").arg(format!("virtserialport,chardev=line,name={PORT}"));
        qemu.arg("-device").arg(format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=4"));
        // Without caching mode, as on hardware: the guest may invalidate lazily.
        qemu.args(["-device", "intel-iommu,intremap=on,caching-mode=off"]);
        for (option, value) in DEVICES {
            qemu.args([option, value]);
        }
        qemu.arg("-drive").arg(drive_file("disk", disk)).args(["-device", DISK]);
        qemu
    }

    fn kernel_command_line(&self) -> String {
        // Huge pages on demand: none are reserved, so that they cost nothing until somebody maps them.
        let huge_pages = "sysctl.vm.nr_overcommit_hugepages=1048576";
        let mut words = vec!["console=ttyS0", "panic=-1", "rdinit=/init", huge_pages, "intel_iommu=on"];
        if matches!(self.accel, Accel::Tcg { .. }) {
            // The translator's clock is the host's, and no attack crosses it; both are slow to find out.
            words.extend(["tsc=reliable", "no_timer_check", "mitigations=off"]);
        }
        words.extend(self.kernel_args.iter().map(String::as_str));
        words.extend(["--", INIT_COMMAND]);
        words.join(" ")
    }
}

/// The contents of the disk's first [`DISK_PATTERN_BYTES`].
pub(crate) fn disk_pattern() -> Vec<u8> {
    const BLOCK_BYTES: u64 = 512;
    (0..DISK_PATTERN_BYTES / 8).flat_map(|word| (word / (BLOCK_BYTES / 8)).to_le_bytes()).collect()
}

fn drive_file(id: &str, path: &Path) -> String {
    let path = path.display().to_string().replace(',', ",,");
    // It lasts as long as the lab: nothing needs to reach the host's disk.
    format!("if=none,id={id},format=raw,cache=unsafe,file={path}")
}

/// QEMU reads commas in a path as the end of it, unless they are doubled.
fn chardev_file(id: &str, path: &Path) -> String {
    format!("file,id={id},path={}", path.display().to_string().replace(',', ",,"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_words_come_after_ours_and_before_the_commands() {
        let machine = Machine {
            kernel_args: vec!["intel_iommu=off".to_owned()],
            accel: Accel::Kvm,
            ..Machine { cpus: 1, memory_mib: 1, kernel_args: vec![], accel: Accel::Kvm }
        };
        let line = machine.kernel_command_line();
        assert!(line.ends_with("intel_iommu=on intel_iommu=off -- lab-init"), "{line}");
    }

    #[test]
    fn commas_in_paths() {
        assert_eq!(chardev_file("c", Path::new("/a,b/c")), "file,id=c,path=/a,,b/c");
    }
}
