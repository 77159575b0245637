//! Texts of sysfs and procfs: bytes in, values out. None of these functions reads a file or panics.

use crate::sysfs::Reserved;

/// A number of a sysfs file: hexadecimal, with or without `0x`.
pub fn hex(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.strip_prefix("0x").unwrap_or(text);
    // `from_str_radix` takes a sign.
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u64::from_str_radix(digits, 16).ok())?
}

/// The regions of a group's `reserved_regions`; the error is the first line that is not understood.
///
/// # Errors
/// A line without two addresses in order. A line without a type still reserves its addresses.
pub fn reserved_regions(text: &str) -> Result<Vec<Reserved>, String> {
    let region = |line: &str| {
        let mut words = line.split_whitespace();
        let (start, end) = (hex(words.next()?)?, hex(words.next()?)?);
        (start <= end).then(|| Reserved { start, end, kind: words.next().unwrap_or_default().to_owned() })
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| region(line).ok_or_else(|| line.to_owned())).collect()
}

/// A value of a `uevent` file.
pub fn uevent<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).filter(|value| !value.is_empty())
}

/// Number and source of each mount of a `mountinfo` file, and where it is mounted; other lines are left out.
pub fn mounts(text: &str) -> impl Iterator<Item = Mount<'_>> {
    text.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut words = before.split_whitespace();
        let (number, place) = (words.nth(2)?, words.nth(1)?);
        Some(Mount { number, place, source: after.split_whitespace().nth(1)? })
    })
}

/// One mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mount<'a> {
    /// Number of its device, `major:minor`; filesystems of several devices have one of their own.
    pub number: &'a str,
    /// Mount point.
    pub place: &'a str,
    /// Source as it was given to mount.
    pub source: &'a str,
}

/// Paths of swap areas in `/proc/swaps`.
pub fn swaps(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.split_whitespace().next()).filter(|path| path.starts_with('/'))
}

/// Interfaces that carry a default route in `/proc/net/route`.
pub fn default_routes(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (interface, destination, mask) = (*words.first()?, *words.get(1)?, *words.get(7)?);
        (destination == "00000000" && mask == "00000000").then_some(interface)
    })
}

/// Interfaces that carry a default route in `/proc/net/ipv6_route`; those that reject are none.
pub fn default_routes_v6(text: &str) -> impl Iterator<Item = &str> {
    const RTF_REJECT: u64 = 0x200;
    text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (destination, prefix, flags) = (*words.first()?, *words.get(1)?, hex(words.get(8)?)?);
        let everything = hex(destination) == Some(0) && prefix == "00" && flags & RTF_REJECT == 0;
        everything.then_some(*words.get(9)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_no_sign_and_one_prefix() {
        for (text, value) in [("0x10\n", 16), ("ff", 255), ("0xffffffffffffffff", u64::MAX)] {
            assert_eq!(hex(text), Some(value), "{text}");
        }
        for text in ["", "0x", "+1", "-1", "0x0x1", "0x10000000000000000", "1g"] {
            assert_eq!(hex(text), None, "{text}");
        }
    }

    #[test]
    fn malformed_reserved_regions_are_named() {
        let text = "0x0 0x0 direct\n\n0xffffffffffffffff 0xffffffffffffffff reserved\n0x5 0x6\n";
        let found = reserved_regions(text).unwrap();
        let ends: Vec<_> = found.iter().map(|region| (region.start, region.end)).collect();
        assert_eq!(ends, [(0, 0), (u64::MAX, u64::MAX), (5, 6)]);
        for line in ["0x1", "0x2 0x1 msi", "0x1 zz msi", "+1 2 msi", "msi", "0x0x1 0x2 msi"] {
            assert_eq!(reserved_regions(&format!("0 1 msi\n{line}\n")), Err(line.to_owned()));
        }
    }

    #[test]
    fn proc_files_are_read_by_column() {
        let text = "36 35 259:2 / /home rw,noatime shared:1 - ext4 /dev/nvme0n1p2 rw\ncut off\n";
        let expected = Mount { number: "259:2", place: "/home", source: "/dev/nvme0n1p2" };
        assert_eq!(mounts(text).collect::<Vec<_>>(), [expected]);
        assert_eq!(swaps("Filename Type\n/dev/sda2 partition 1 0 -2\n").collect::<Vec<_>>(), ["/dev/sda2"]);
        let v4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
            eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\neth1\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n";
        assert_eq!(default_routes(v4).collect::<Vec<_>>(), ["eth0"]);
        let zero = "0".repeat(32);
        let v6 = |flags, name| format!("{zero} 00 {zero} 00 {zero} 400 1 0 {flags} {name}\n");
        let text = v6("00000003", "eth0") + &v6("00200200", "lo");
        assert_eq!(default_routes_v6(&text).collect::<Vec<_>>(), ["eth0"]);
        assert_eq!(uevent("MAJOR=7\nDEVNAME=loop0\n", "DEVNAME"), Some("loop0"));
        assert_eq!(uevent("DEVNAMES=x\nDEVNAME=\n", "DEVNAME"), None);
    }
}
