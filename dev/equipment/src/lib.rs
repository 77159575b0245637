//! Equipment that a test needs and a machine may lack.
//!
//! A test that passes without having checked anything is an error in CI, where scripts/setup-test-deps installs every
//! program and the tests run as root with KVM: [`missing`] panics there (`CI=true`). Elsewhere it prints a line that
//! starts with `SKIPPED:` and the test returns.

use std::{env, fmt::Display};

/// One kind of equipment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Equipment {
    /// Chromium, to open reports and dashboards.
    Browser,
    /// A program of the distribution.
    Program,
    /// `/dev/kvm`, readable and writable.
    Kvm,
    /// `perf_event_open(2)` for the user running the tests.
    PerfEvents,
    /// The right to load eBPF programs.
    Ebpf,
    /// The emulated host of `iommu-bench lab`: QEMU and a kernel.
    Lab,
    /// The machine of `--machine guest`: QEMU and a kernel.
    Guest,
    /// What only some kernels, processors or users have. Its absence is not an error anywhere.
    Optional,
}

impl Equipment {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Browser,
        Self::Program,
        Self::Kvm,
        Self::PerfEvents,
        Self::Ebpf,
        Self::Lab,
        Self::Guest,
        Self::Optional,
    ];

    /// The remedy where it is missing.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Browser | Self::Program => "run scripts/setup-test-deps as root",
            Self::Kvm => "load kvm_intel or kvm_amd, and run the tests as root",
            Self::PerfEvents | Self::Ebpf => "run the tests as root",
            Self::Lab => "see docs/lab.md",
            Self::Guest => "see docs/guest.md",
            Self::Optional => "nothing to do",
        }
    }

    /// Whether a machine of CI has it.
    #[must_use]
    pub fn is_in_ci(self) -> bool {
        self != Self::Optional
    }
}

/// Says that a test checks nothing for want of `equipment`.
///
/// ```
/// # use iommu_equipment::{Equipment, missing};
/// fn a_guest_runs() {
///     if !std::path::Path::new("/dev/kvm").exists() {
///         return missing(Equipment::Kvm, "no /dev/kvm");
///     }
///     // …
/// }
/// ```
///
/// # Panics
/// Where the environment has `CI=true` and a machine of CI has the equipment.
pub fn missing(equipment: Equipment, why: impl Display) {
    let in_ci = env::var_os("CI").is_some_and(|value| value == "true");
    assert!(
        !(in_ci && equipment.is_in_ci()),
        "CI=true, and the test would check nothing for want of {equipment:?}: {why}; {}",
        equipment.remedy()
    );
    #[allow(clippy::print_stdout, reason = "a skip is said aloud")]
    {
        println!("SKIPPED: {why}; {}", equipment.remedy());
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{Equipment, missing};

    /// The environment is the process's: each case has one of its own.
    #[test]
    fn in_ci_what_belongs_to_the_machine_is_an_error() {
        if let Some(number) = std::env::var_os("EQUIPMENT") {
            let number: usize = number.to_str().unwrap().parse().unwrap();
            return missing(Equipment::ALL[number], "the reason");
        }
        for (number, equipment) in Equipment::ALL.into_iter().enumerate() {
            for (ci, fails) in [(Some("true"), equipment.is_in_ci()), (Some("false"), false), (None, false)] {
                let mut command = Command::new(std::env::current_exe().unwrap());
                command.env_remove("CI").env("EQUIPMENT", number.to_string());
                command.args(["in_ci_what_belongs_to_the_machine_is_an_error", "--nocapture"]);
                command.envs(ci.map(|ci| ("CI", ci)));
                let output = command.output().unwrap();
                let said = String::from_utf8_lossy(&output.stdout);
                assert_eq!(output.status.success(), !fails, "{equipment:?} with {ci:?}: {said}");
                assert_eq!(said.contains("SKIPPED: the reason"), !fails, "{said}");
            }
        }
        assert!(!Equipment::Optional.is_in_ci() && Equipment::Kvm.is_in_ci());
    }
}
