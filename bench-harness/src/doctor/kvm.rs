//! KVM: whether there is one, and whether it runs guests on the processor or emulates them.

use super::{Check, Finding, read};

pub(super) const CHECKS: &[Check] = &[Check {
    name: "kvm",
    enables: "--machine kvm and guest, exits and doorbells as they cost on hardware",
    look: kvm,
}];

/// Rounds of the loop that is timed: a millisecond where each instruction is emulated.
const ROUNDS: u32 = 1000;
/// Beyond this no processor runs a decrement and a jump: KVM emulates them.
const EMULATED_NS: f64 = 50.0;

fn kvm() -> Finding {
    match kvm_payload::instruction_ns(ROUNDS) {
        Ok(ns) => judge(ns, has_hardware_virtualization(&read("/proc/cpuinfo").unwrap_or_default())),
        Err(error @ kvm_payload::PayloadError::NoKvm(_)) => Finding::no(
            error.to_string(),
            "load kvm_intel or kvm_amd, enable virtualisation in the firmware (or nesting in the host), join the group kvm",
        ),
        Err(error) => Finding::limited(
            format!("/dev/kvm is there, but a guest of twenty instructions did not run: {error}"),
            "use --machine local, or the lab, which needs no KVM",
        ),
    }
}

fn judge(instruction_ns: f64, hardware: bool) -> Finding {
    let measured = format!("a guest's instruction takes {instruction_ns:.1} ns");
    if instruction_ns > EMULATED_NS {
        let kind = if hardware { "" } else { " (a PVM-type KVM: the processor shows neither vmx nor svm)" };
        return Finding::limited(
            format!(
                "KVM emulates each instruction{kind}: {measured}. Exits and doorbells counted here are right, times mean \
                 nothing for hardware; an ordinary Linux guest does not boot"
            ),
            "run on a machine with vmx or svm for times; here use QEMU's TCG (--machine lab) for Linux guests",
        );
    }
    Finding::yes(format!("KVM runs guests on the processor: {measured}. Times of exits are this hardware's"))
}

fn has_hardware_virtualization(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn a_slow_instruction_is_an_emulated_one() {
        assert_eq!(judge(0.4, true).state, State::Yes);
        let pvm = judge(760.0, false);
        assert_eq!(pvm.state, State::Limited);
        assert!(pvm.detail.contains("PVM") && pvm.detail.contains("760.0 ns"), "{pvm:?}");
        assert!(!judge(760.0, true).detail.contains("PVM"));
    }

    #[test]
    fn flags_are_compared_whole() {
        assert!(has_hardware_virtualization("processor: 0\nflags\t\t: fpu vmx sse\n"));
        assert!(!has_hardware_virtualization("flags\t\t: fpu vmx_flags\nvmx flags: ept svm\n"));
    }
}
