//! Whom to watch.

use std::fs;

use iommu_probes::Filter;

use crate::failure::Failure;

/// A process, threads of a name, or everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// What the kernel's programs let through.
    pub(super) filter: Filter,
    /// The process, where it is one.
    pub(super) pid: Option<u32>,
}

impl Target {
    /// Looks for the process.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn find(pid: Option<u32>, comm: Option<&str>) -> Result<Self, Failure> {
        if let Some(pid) = pid {
            let target = Self { filter: Filter { tgid: Some(pid), ..Filter::default() }, pid: Some(pid) };
            if target.is_gone() {
                return Err(Failure::usage(format!("there is no process {pid}"))
                    .with_remedy("find one with `pgrep -a NAME`, or watch by name with --comm NAME"));
            }
            return Ok(target);
        }
        let filter = Filter { comm: comm.map(str::to_owned), ..Filter::default() };
        Ok(Self { filter, pid: comm.and_then(process_called) })
    }

    /// Whether the process was there and is not any more.
    pub(super) fn is_gone(&self) -> bool {
        let Some(pid) = self.pid else { return false };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
        // A zombie runs nothing any more. The name before the state may contain anything, `)` included.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
    }
}

/// The process of the lowest number with that name, as the kernel cuts it to 15 bytes.
fn process_called(comm: &str) -> Option<u32> {
    let wanted = comm.get(..15).unwrap_or(comm);
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let called = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|name| name.trim_end_matches('\n') == wanted)
    };
    pids.filter(called).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_there_or_not() {
        let own = Target::find(Some(std::process::id()), None).unwrap();
        assert!(!own.is_gone());
        let error = Target::find(Some(i32::MAX as u32), None).unwrap_err();
        assert_eq!(error.exit, crate::exit::Exit::Usage);
        assert!(!Target::find(None, None).unwrap().is_gone(), "everybody is never gone");
    }

    #[test]
    fn a_zombie_is_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let target = Target::find(Some(child.id()), None)
            .unwrap_or(Target { filter: Filter::default(), pid: Some(child.id()) });
        let began = std::time::Instant::now();
        while !target.is_gone() && began.elapsed().as_secs() < 10 {
            std::thread::yield_now();
        }
        assert!(target.is_gone());
        child.wait().unwrap();
    }
}
