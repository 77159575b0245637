//! IOMMUs of this machine and the ways to hand devices through.

use std::{fs, path::Path};

use super::{Check, Finding, names, read};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "iommu",
        enables: "probes on the kernel's IOMMU layer, passthrough",
        look: || host_iommu(&names("/sys/class/iommu"), &names("/sys/kernel/iommu_groups")),
    },
    Check { name: "vfio", enables: "--endpoint passthrough on this machine", look: vfio },
    Check {
        name: "iommufd",
        enables: "passthrough by VFIO's device files, dirty tracking",
        look: || match fs::metadata("/dev/iommu") {
            Ok(_) => Finding::yes("/dev/iommu is there"),
            Err(error) => Finding::no(
                format!("/dev/iommu: {error}"),
                "a kernel with CONFIG_IOMMUFD; VFIO type 1 does without it",
            ),
        },
    },
];

fn host_iommu(units: &[String], groups: &[String]) -> Finding {
    if units.is_empty() {
        return Finding::no(
            "the kernel drives no IOMMU: nothing measured here passes through one",
            "boot with intel_iommu=on or amd_iommu=on where there is one, or use --machine lab, which emulates one",
        );
    }
    Finding::yes(format!("{} with {} groups", units.join(", "), groups.len()))
}

fn vfio() -> Finding {
    if let Err(error) = fs::metadata("/dev/vfio/vfio") {
        return Finding::no(
            format!("/dev/vfio/vfio: {error}"),
            "modprobe vfio-pci (with an IOMMU), or use --machine lab for VFIO in an emulated host",
        );
    }
    let bound = bound_to_vfio(Path::new("/sys/bus/pci/drivers/vfio-pci"));
    if bound.is_empty() {
        return Finding::limited(
            "VFIO is there, no device is bound to vfio-pci",
            "echo vfio-pci > /sys/bus/pci/devices/BDF/driver_override, unbind BDF, echo BDF > /sys/bus/pci/drivers_probe",
        );
    }
    let unsafe_interrupts = read("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts");
    let note = match unsafe_interrupts.as_deref() {
        Ok("Y") => "; unsafe interrupts are allowed",
        _ => "",
    };
    Finding::yes(format!("bound to vfio-pci: {}{note}", bound.join(", ")))
}

/// Devices, with their groups.
fn bound_to_vfio(driver: &Path) -> Vec<String> {
    let devices = names(&driver.to_string_lossy()).into_iter().filter(|name| name.contains(':'));
    devices
        .map(|device| {
            let group = fs::read_link(driver.join(&device).join("iommu_group")).ok();
            let group = group.and_then(|group| Some(group.file_name()?.to_string_lossy().into_owned()));
            format!("{device} (group {})", group.as_deref().unwrap_or("none"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn units_and_groups_are_listed() {
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(host_iommu(&[], &[]).state, State::No);
        assert_eq!(
            host_iommu(&strings(&["dmar0", "dmar1"]), &strings(&["0"])).detail,
            "dmar0, dmar1 with 1 groups"
        );
    }

    #[test]
    fn bound_devices_come_with_their_group() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("0000:01:00.0")).unwrap();
        std::os::unix::fs::symlink(
            "/sys/kernel/iommu_groups/7",
            folder.path().join("0000:01:00.0/iommu_group"),
        )
        .unwrap();
        fs::write(folder.path().join("new_id"), "").unwrap();
        fs::create_dir_all(folder.path().join("0000:02:00.1")).unwrap();
        assert_eq!(bound_to_vfio(folder.path()), ["0000:01:00.0 (group 7)", "0000:02:00.1 (group none)"]);
    }
}
