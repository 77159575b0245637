//! The command line that plugs the units into somebody's QEMU.

use std::path::Path;

use serde_json::json;

use super::{
    address::{PciAddress, ROOT_PORT, Unit},
    platform::socket,
};

/// Name of the VIOT table in the socket folder.
pub(crate) const VIOT_FILE: &str = "viot.bin";
/// Name of the root port that the disk is behind.
const PORT_NAME: &str = "port0";

/// QEMU's arguments for the units: option and value, in order. Memory must be shared, and the machine q35.
pub(crate) fn arguments(folder: &Path, memory: &str, units: &[Unit]) -> Vec<(&'static str, String)> {
    let mut arguments = vec![
        ("-machine", "q35,memory-backend=mem".to_owned()),
        ("-m", memory.to_owned()),
        ("-object", format!("memory-backend-memfd,id=mem,size={memory},share=on")),
    ];
    if units.contains(&Unit::Iommu) {
        arguments.push(("-acpitable", format!("file={}", escaped(&folder.join(VIOT_FILE)))));
    }
    if units.contains(&Unit::Disk) {
        let port = format!("pcie-root-port,id={PORT_NAME},bus=pcie.0,addr={},chassis=1", slot(ROOT_PORT));
        arguments.push(("-device", port));
    }
    arguments.extend(units.iter().map(|unit| ("-device", device(folder, *unit))));
    arguments
}

/// The `-device` (or `device_add`) of one unit.
pub(crate) fn device(folder: &Path, unit: Unit) -> String {
    let address = unit.address();
    let bus = if address.bus == 0 { "pcie.0" } else { PORT_NAME };
    json!({
        "driver": "vfio-user-pci",
        "id": unit.name(),
        "bus": bus,
        "addr": slot(address),
        "socket": {"type": "unix", "path": socket(folder, unit)},
    })
    .to_string()
}

fn slot(address: PciAddress) -> String {
    format!("{:#x}", address.device)
}

/// QEMU reads commas in a value as the end of it, unless they are doubled.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// The whole command, for a shell.
pub(crate) fn command(folder: &Path) -> String {
    let arguments = arguments(folder, "2G", &Unit::ALL);
    let lines = arguments.iter().map(|(option, value)| format!(" \\\n  {option} {}", quoted(value)));
    format!("qemu-system-x86_64{}", lines.collect::<String>())
}

/// Quoted for a POSIX shell where that is needed.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=.,/:+@%".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_plugged_in_where_the_table_says() {
        let line = command(Path::new("/tmp/it's here,now"));
        assert!(line.contains("-acpitable 'file=/tmp/it'\\''s here,,now/viot.bin'"), "{line}");
        for unit in Unit::ALL {
            let text = device(Path::new("/run/x"), unit);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["socket"]["path"], format!("/run/x/{}.sock", unit.name()));
            let on_root_bus = value["bus"] == "pcie.0";
            assert_eq!(on_root_bus, unit.address().bus == 0);
            assert!(line.contains(&format!("\"id\":\"{}\"", unit.name())));
        }
    }

    #[test]
    fn quoting() {
        assert_eq!(quoted("a=b,c"), "a=b,c");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("{\"a\"}"), "'{\"a\"}'");
    }
}
