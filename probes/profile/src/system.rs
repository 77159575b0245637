//! CPUs and threads, as the kernel lists them.

use std::{fs, io};

/// The CPUs that are online.
///
/// # Errors
/// When sysfs cannot be read or says something else than a list.
pub fn online_cpus() -> io::Result<Vec<usize>> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online")?;
    cpu_list(text.trim())
        .ok_or_else(|| io::Error::other(format!("`{}` is no list of CPUs", text.trim().escape_debug())))
}

/// Reads a list such as `0-3,8`; `None` when it is none.
pub fn cpu_list(text: &str) -> Option<Vec<usize>> {
    /// More than Linux supports: a list beyond it is garbage, not a machine.
    const MOST: usize = 1 << 16;
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if last < first || last >= MOST {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// The threads of a process.
///
/// # Errors
/// When there is no such process.
pub fn threads(pid: i32) -> io::Result<Vec<i32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))?;
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(ids.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(cpu_list("0"), Some(vec![0]));
        assert_eq!(cpu_list("0-2,5"), Some(vec![0, 1, 2, 5]));
        for bad in ["", "a", "3-1", "0-", "1,,2", "0-99999999999"] {
            assert_eq!(cpu_list(bad), None, "{bad}");
        }
        assert!(!online_cpus().unwrap().is_empty());
    }

    #[test]
    fn this_thread_is_one_of_this_process() {
        let all = threads(std::process::id() as i32).unwrap();
        assert!(all.contains(&(std::process::id() as i32)), "{all:?}");
        assert!(threads(i32::MAX).is_err());
    }
}
