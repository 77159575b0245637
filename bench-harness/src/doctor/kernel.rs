//! The kernel's settings and this process's rights and limits.

#![allow(unsafe_code, reason = "membarrier and getrlimit have no safe wrapper in libc")]

use super::{Check, Finding, names, read};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "capabilities",
        enables: "kernel probes, system-wide profiles, passthrough",
        look: || capabilities(&status()),
    },
    Check { name: "lockdown", enables: "kernel probes that read kernel memory", look: lockdown },
    Check {
        name: "unprivileged_bpf",
        enables: "nothing this tool needs: tracing programs always take privileges",
        look: unprivileged_bpf,
    },
    Check {
        name: "tracefs",
        enables: "probes on tracepoints by perf, the layout of their records",
        look: tracefs,
    },
    Check { name: "hugepages", enables: "guest memory in large pages", look: hugepages },
    Check { name: "clock", enables: "latencies in ns with little overhead", look: clock },
    Check { name: "membarrier", enables: "asymmetric fences: a pin of 2 ns instead of 6", look: membarrier },
    Check {
        name: "memlock",
        enables: "VFIO maps of guest memory, perf buffers, eBPF maps on old kernels",
        look: memlock,
    },
    Check { name: "cpus", enables: "device, driver and endpoint on CPUs of their own", look: cpus },
];

const CAPABILITIES: [(&str, u32); 5] = [
    ("CAP_SYS_ADMIN", 21),
    ("CAP_BPF", 39),
    ("CAP_PERFMON", 38),
    ("CAP_IPC_LOCK", 14),
    ("CAP_SYS_PTRACE", 19),
];

fn status() -> String {
    read("/proc/self/status").unwrap_or_default()
}

fn capabilities(status: &str) -> Finding {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(mask) = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()) else {
        return Finding::no("/proc/self/status does not tell CapEff", "mount /proc");
    };
    let has = |bit: u32| mask >> bit & 1 == 1;
    let (with, without): (Vec<_>, Vec<_>) = CAPABILITIES.iter().partition(|(_, bit)| has(*bit));
    let list = |names: &[&(&str, u32)]| names.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let remedy = "run as root, or setcap cap_bpf,cap_perfmon+ep on the program";
    match (with.is_empty(), without.is_empty()) {
        (_, true) => Finding::yes(list(&with)),
        (true, _) => Finding::no(format!("none of {}", list(&without)), remedy),
        _ => Finding::limited(format!("{}; not {}", list(&with), list(&without)), remedy),
    }
}

fn lockdown() -> Finding {
    match read("/sys/kernel/security/lockdown") {
        Err(_) => Finding::yes("the kernel has no lockdown, or securityfs is not mounted"),
        Ok(modes) if modes.contains("[none]") => Finding::yes("none"),
        Ok(modes) if modes.contains("[integrity]") => Finding::limited(
            "integrity: raw access to memory and ports is refused",
            "boot with lockdown=none",
        ),
        Ok(modes) => Finding::no(
            format!("{modes}: the kernel lets nobody read its memory, so no probe may"),
            "boot with lockdown=none or lockdown=integrity, or without secure boot",
        ),
    }
}

fn unprivileged_bpf() -> Finding {
    match read("/proc/sys/kernel/unprivileged_bpf_disabled").as_deref() {
        Ok("0") => Finding::yes("kernel.unprivileged_bpf_disabled is 0"),
        Ok(value) => Finding::limited(
            format!("kernel.unprivileged_bpf_disabled is {value}: nothing loads without CAP_BPF"),
            "none needed: run probes as root or with CAP_BPF and CAP_PERFMON",
        ),
        Err(error) => Finding::limited(error.clone(), "a kernel with CONFIG_BPF_SYSCALL"),
    }
}

fn tracefs() -> Finding {
    let roots = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
    for root in roots {
        if read(&format!("{root}/events/header_page")).is_ok() {
            let systems = names(&format!("{root}/events"));
            let has = |system: &&str| systems.iter().any(|name| name == system);
            let (with, without): (Vec<_>, Vec<_>) =
                ["kvm", "iommu", "dma", "intel_iommu"].iter().partition(|s| has(s));
            let list = |names: Vec<&&str>| names.into_iter().copied().collect::<Vec<_>>().join(", ");
            let missing =
                if without.is_empty() { String::new() } else { format!("; none of: {}", list(without)) };
            return Finding::yes(format!("{root}; events of: {}{missing}", list(with)));
        }
    }
    Finding::no(
        "tracefs cannot be read",
        "run as root; mount -t tracefs tracefs /sys/kernel/tracing where it is not mounted",
    )
}

fn hugepages() -> Finding {
    let root = "/sys/kernel/mm/hugepages";
    let mut pools = Vec::new();
    let mut any = false;
    for pool in names(root) {
        let count = |file: &str| {
            read(&format!("{root}/{pool}/{file}")).ok().and_then(|text| text.parse::<u64>().ok())
        };
        if let (Some(all), Some(free)) = (count("nr_hugepages"), count("free_hugepages")) {
            any |= free > 0;
            pools.push(format!("{}: {free} of {all} free", pool.trim_start_matches("hugepages-")));
        }
    }
    let transparent = read("/sys/kernel/mm/transparent_hugepage/enabled");
    let transparent =
        transparent.ok().and_then(|text| Some(text.split_once('[')?.1.split_once(']')?.0.to_owned()));
    let text =
        format!("{}; transparent: {}", pools.join(", "), transparent.as_deref().unwrap_or("not built in"));
    if pools.is_empty() {
        return Finding::no(text, "a kernel with CONFIG_HUGETLBFS");
    }
    if any {
        return Finding::yes(text);
    }
    Finding::limited(text, "sysctl vm.nr_hugepages=512 reserves 1 GiB in pages of 2 MiB")
}

fn clock() -> Finding {
    let source = read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let source = source.unwrap_or_else(|_| "unknown".to_owned());
    match crate::clock::WallClock::best().name() {
        "tsc" => {
            Finding::yes(format!("the time-stamp counter ticks evenly (kernel's clock source: {source})"))
        }
        name => Finding::limited(
            format!(
                "{name} (kernel's clock source: {source}): each reading of the clock costs more than what it times"
            ),
            "a processor with constant_tsc and nonstop_tsc, shown to the guest by the hypervisor",
        ),
    }
}

fn membarrier() -> Finding {
    const QUERY: libc::c_long = 0;
    const PRIVATE_EXPEDITED: libc::c_long = 1 << 3;
    // SAFETY: MEMBARRIER_CMD_QUERY takes no pointer and changes nothing.
    let commands = unsafe { libc::syscall(libc::SYS_membarrier, QUERY, 0, 0) };
    if commands >= 0 && commands & PRIVATE_EXPEDITED != 0 {
        return Finding::yes("membarrier(PRIVATE_EXPEDITED)");
    }
    Finding::no(
        "the kernel has no expedited membarrier: devices use full fences",
        "Linux 4.14 with CONFIG_MEMBARRIER",
    )
}

fn memlock() -> Finding {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit that getrlimit fills.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } != 0;
    if failed {
        return Finding::no("getrlimit failed", "a kernel that has RLIMIT_MEMLOCK");
    }
    judge_memlock(limit.rlim_cur)
}

fn judge_memlock(bytes: u64) -> Finding {
    const ENOUGH: u64 = 1 << 30;
    match bytes {
        libc::RLIM_INFINITY => Finding::yes("unlimited"),
        bytes if bytes >= ENOUGH => Finding::yes(format!("{} MiB", bytes >> 20)),
        bytes => Finding::limited(
            format!("{} KiB: VFIO pins all of a guest's memory within this limit", bytes >> 10),
            "ulimit -l unlimited, or LimitMEMLOCK=infinity in the service",
        ),
    }
}

fn cpus() -> Finding {
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let text = format!("{available} CPUs for this process");
    if available >= 3 {
        return Finding::yes(text);
    }
    Finding::limited(
        format!("{text}: devices work inline, on the kicking thread, so a kick costs no wake-up"),
        "three CPUs or more; compare results of the same service mode only",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn capabilities_are_bits_of_a_mask() {
        assert_eq!(capabilities("CapEff:\t000001ffffffffff\n").state, State::Yes);
        let some = capabilities("CapEff:\t000000c000000000\n");
        assert_eq!(some.state, State::Limited);
        assert!(some.detail.starts_with("CAP_BPF, CAP_PERFMON; not CAP_SYS_ADMIN"), "{some:?}");
        assert_eq!(capabilities("CapEff:\t0000000000000000\n").state, State::No);
        assert_eq!(capabilities("CapEff:\tzzz\n").state, State::No);
    }

    #[test]
    fn locked_memory_is_enough_from_a_gibibyte_on() {
        assert_eq!(judge_memlock(u64::MAX).detail, "unlimited");
        assert_eq!(judge_memlock(2 << 30).state, State::Yes);
        assert_eq!(judge_memlock(8 << 20).state, State::Limited);
    }
}
