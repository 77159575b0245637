//! QEMU, as the machine of guests and of the lab.

use std::{
    io::Read as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{Check, Finding};

pub(super) const CHECKS: &[Check] = &[Check {
    name: "qemu",
    enables: "--machine guest and lab; vfio-user serves our device to a stock QEMU",
    look: qemu,
}];

const PROGRAM: &str = "qemu-system-x86_64";
const PATIENCE: Duration = Duration::from_secs(4);
/// Devices that make a difference, and what for.
const DEVICES: [&str; 4] = ["virtio-iommu-pci", "intel-iommu", "amd-iommu", "vfio-user-pci"];
const INSTALL: &str = "apt-get install qemu-system-x86; vfio-user-pci needs QEMU 10.1 (Debian 13 backports, in a root of its own)";

fn qemu() -> Finding {
    let version = match output(&["--version"]) {
        Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
        Err(error) => return Finding::no(format!("{PROGRAM}: {error}"), INSTALL),
    };
    match output(&["-device", "help"]) {
        Ok(help) => judge(&version, &help),
        Err(error) => Finding::limited(format!("{version}; -device help: {error}"), INSTALL),
    }
}

fn judge(version: &str, help: &str) -> Finding {
    let has = |device: &&str| help.contains(&format!("name \"{device}\""));
    let (with, without): (Vec<&str>, Vec<&str>) = DEVICES.iter().partition(|device| has(device));
    if without.is_empty() {
        return Finding::yes(format!("{version}: {}", with.join(", ")));
    }
    let with = if with.is_empty() { "none of the devices needed".to_owned() } else { with.join(", ") };
    Finding::limited(format!("{version}: {with}; lacks {}", without.join(", ")), INSTALL)
}

/// What QEMU prints; it is ended if it takes too long.
fn output(args: &[&str]) -> Result<String, String> {
    let mut child = Command::new(PROGRAM)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut stdout = child.stdout.take().ok_or("no output")?;
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        // A program that breaks off has said what it has said.
        let _ = stdout.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let began = Instant::now();
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if began.elapsed() > PATIENCE => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no answer within {} s", PATIENCE.as_secs()));
            }
            None => thread::sleep(Duration::from_millis(10)),
        }
    };
    let text = reader.join().map_err(|_| "its output could not be read")?;
    if status.success() { Ok(text) } else { Err(status.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn devices_are_looked_for_by_name() {
        let line = |device| format!("name \"{device}\", bus PCI\n");
        let old: String = ["virtio-iommu-pci", "intel-iommu", "amd-iommu"].map(line).concat();
        let found = judge("QEMU 7.2", &old);
        assert_eq!(found.state, State::Limited);
        assert_eq!(found.detail, "QEMU 7.2: virtio-iommu-pci, intel-iommu, amd-iommu; lacks vfio-user-pci");
        assert_eq!(judge("QEMU 11", &(old + &line("vfio-user-pci"))).state, State::Yes);
        assert!(judge("QEMU", "").detail.contains("none of the devices"));
    }
}
