//! Use of network cards.

use std::path::Path;

use super::{Host, Tree, Use, read};
use crate::{
    sysfs::{PciDevice, SysfsError, file_name, names},
    texts,
};

/// Base class of network cards.
const NETWORK: u32 = 0x02;
/// Drivers that only keep others away.
const STUBS: [&str; 2] = ["pci-stub", "pciback"];

pub(super) fn in_use(device: &PciDevice, tree: &Tree, host: &Host) -> Result<Option<Use>, SysfsError> {
    let interfaces: Vec<_> = tree.of_class("net").collect();
    for interface in &interfaces {
        if let Some(found) = interface_in_use(interface, host)? {
            return Ok(Some(found));
        }
    }
    let driver = driver(device, tree);
    // The folder of a class stays when its last interface moves to another namespace.
    let moved =
        |folder: &Path| file_name(folder) == "net" && names(folder).is_ok_and(|names| names.is_empty());
    let emptied = tree.folders.iter().any(|folder| moved(folder));
    let is_card = device.class()? >> 16 == NETWORK;
    let hidden = is_card && driver.is_some() && interfaces.is_empty();
    if emptied || hidden {
        return Ok(Some(Use::Elsewhere { driver: driver.unwrap_or_else(|| "unknown".to_owned()) }));
    }
    Ok(None)
}

/// The driver that makes interfaces: a virtio card's is that of the virtio device below it.
fn driver(device: &PciDevice, tree: &Tree) -> Option<String> {
    let driver = device.driver().filter(|driver| !STUBS.contains(&driver.as_str()))?;
    if driver != "virtio-pci" {
        return Some(driver);
    }
    let mut links = tree.of_class("virtio").filter_map(|inner| std::fs::read_link(inner.join("driver")).ok());
    links.next().map(|link| file_name(&link))
}

fn interface_in_use(folder: &Path, host: &Host) -> Result<Option<Use>, SysfsError> {
    const IFF_UP: u64 = 1;
    let interface = file_name(folder);
    if let Ok(master) = std::fs::read_link(folder.join("master")) {
        return Ok(Some(Use::Enslaved { interface, upper: file_name(&master) }));
    }
    for name in names(folder)? {
        let upper = match name.strip_prefix("upper_") {
            Some(upper) => upper.to_owned(),
            None if matches!(name.as_str(), "brport" | "bonding_slave" | "master") => name,
            None => continue,
        };
        return Ok(Some(Use::Enslaved { interface, upper }));
    }
    let v4 = read(&host.proc.join("net/route"))?.unwrap_or_default();
    let v6 = read(&host.proc.join("net/ipv6_route"))?.unwrap_or_default();
    if texts::default_routes(&v4).chain(texts::default_routes_v6(&v6)).any(|name| name == interface) {
        return Ok(Some(Use::DefaultRoute { interface }));
    }
    // An interface that does not say counts as up.
    let flags = read(&folder.join("flags"))?.and_then(|text| texts::hex(&text));
    Ok(flags.is_none_or(|flags| flags & IFF_UP != 0).then_some(Use::Up { interface }))
}
