//! What the running kernel offers to probes. Read once.

use std::{cell::OnceCell, collections::HashSet, sync::Arc};

use crate::{KernelTypes, ProbeError, Tracefs};

/// The running kernel, as far as probes need to know it.
#[derive(Debug)]
pub struct Kernel {
    pub(crate) permitted: bool,
    pub(crate) types: Result<KernelTypes, Arc<ProbeError>>,
    pub(crate) tracefs: Result<Tracefs, Arc<ProbeError>>,
    pub(crate) locked_down: bool,
    symbols: OnceCell<HashSet<String>>,
}

impl Kernel {
    /// Looks at the running kernel. `modules` are those whose functions will be asked for.
    #[must_use]
    pub fn look(modules: &[&str]) -> Self {
        Self {
            permitted: may_load_programs(),
            types: KernelTypes::read(modules).map_err(Arc::new),
            tracefs: Tracefs::find().map_err(Arc::new),
            locked_down: std::fs::read_to_string("/sys/kernel/security/lockdown")
                .is_ok_and(|modes| modes.contains("[confidentiality]")),
            symbols: OnceCell::new(),
        }
    }

    /// Whether kprobes could find that function.
    pub(crate) fn has_symbol(&self, name: &str) -> bool {
        self.symbols
            .get_or_init(|| {
                let text = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
                functions(&text).map(str::to_owned).collect()
            })
            .contains(name)
    }
}

/// Functions in the text of `/proc/kallsyms`: `ffffffff81d3efe0 T iommu_map [module]`.
fn functions(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        (matches!(words.next()?, "t" | "T")).then(|| words.next())?
    })
}

/// Whether this process may load tracing programs.
pub(crate) fn may_load_programs() -> bool {
    may_load(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
}

/// Whether `/proc/self/status` shows the capabilities that loading tracing programs takes.
fn may_load(status: &str) -> bool {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    const CAP_PERFMON: u64 = 1 << 38;
    const CAP_BPF: u64 = 1 << 39;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    effective & CAP_SYS_ADMIN != 0 || effective & (CAP_BPF | CAP_PERFMON) == CAP_BPF | CAP_PERFMON
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_mask() {
        assert!(may_load("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(may_load("CapEff:\t000000c000000000\n"), "CAP_BPF and CAP_PERFMON");
        assert!(!may_load("CapEff:\t0000008000000000\n"), "CAP_BPF alone");
        assert!(!may_load("CapEff:\t0000000000000000\n"));
        assert!(!may_load(""));
    }

    #[test]
    fn only_functions_are_taken_from_the_symbols() {
        let text = "ffffffff81d3efe0 T iommu_map\nffffffff81000000 d iommu_data\n0 t qi_submit_sync\t[intel]\nnonsense\n";
        assert_eq!(functions(text).collect::<Vec<_>>(), ["iommu_map", "qi_submit_sync"]);
    }
}
