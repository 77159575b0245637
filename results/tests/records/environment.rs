//! Reading the machine, from a tree of files made for the test and from the real one.

use std::fs;
use std::path::Path;

use iommu_results::{Environment, Fact};

fn put(root: &Path, path: &str, text: &str) {
    let file = root.join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

/// A bare-metal machine that is ready to measure on.
fn quiet_machine(root: &Path) {
    put(root, "proc/cpuinfo", "processor\t: 0\nmodel name\t: Test CPU 9000\nflags\t\t: fpu tsc\n");
    put(root, "proc/meminfo", "MemTotal:        2048 kB\nMemFree: 1 kB\n");
    put(root, "proc/sys/kernel/osrelease", "6.12.0-test\n");
    put(root, "proc/loadavg", "0.25 0.1 0.0 1/100 4242\n");
    put(root, "etc/os-release", "NAME=x\nPRETTY_NAME=\"Test Linux 1\"\n");
    put(root, "sys/devices/system/cpu/online", "0-3,8\n");
    put(root, "sys/devices/system/cpu/smt/control", "off\n");
    put(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n");
    put(root, "sys/devices/system/cpu/intel_pstate/no_turbo", "1\n");
    put(root, "sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
    put(root, "sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n");
}

/// The warnings apart from those about how this test was built.
fn warnings(environment: &Environment) -> Vec<String> {
    environment.warnings().into_iter().filter(|warning| !warning.starts_with("debug build")).collect()
}

#[test]
fn a_quiet_machine_is_read_whole_and_gives_no_warning() {
    let dir = tempfile::tempdir().unwrap();
    quiet_machine(dir.path());
    let environment = Environment::capture_from(dir.path());
    assert_eq!(environment.cpu_model, Fact::known("Test CPU 9000".to_owned()));
    assert_eq!(environment.cpus_online, Fact::known(5));
    assert_eq!(environment.memory_bytes, Fact::known(2048 * 1024));
    assert_eq!(environment.thp, Fact::known("madvise".to_owned()));
    assert_eq!(environment.boost, Fact::known("off".to_owned()));
    assert_eq!(environment.hypervisor, Fact::known("none".to_owned()));
    assert_eq!(environment.os, Fact::known("Test Linux 1".to_owned()));
    assert_eq!(warnings(&environment), Vec::<String>::new());
    assert!(environment.rows().iter().all(|(_, value)| value.is_ok()));
}

#[test]
fn a_noisy_virtual_machine_is_warned_about() {
    let dir = tempfile::tempdir().unwrap();
    quiet_machine(dir.path());
    put(dir.path(), "proc/cpuinfo", "model name : X\nflags : fpu hypervisor tsc\n");
    put(dir.path(), "sys/class/dmi/id/product_name", "Test HVM\n");
    put(dir.path(), "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n");
    put(dir.path(), "sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n");
    put(dir.path(), "proc/loadavg", "900.5 1 1 1/1 1\n");
    let found = warnings(&Environment::capture_from(dir.path()));
    for expected in ["Test HVM", "performance, powersave", "hpet", "900.50"] {
        assert!(found.iter().any(|warning| warning.contains(expected)), "{expected}: {found:?}");
    }
    assert_eq!(found.len(), 4);
}

#[test]
fn what_cannot_be_read_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let environment = Environment::capture_from(dir.path());
    assert_eq!(environment.kernel.value, None);
    assert!(environment.kernel.why().contains("/proc/sys/kernel/osrelease"));
    put(dir.path(), "proc/loadavg", "NaN\n");
    put(dir.path(), "proc/meminfo", "MemTotal: many kB\n");
    put(dir.path(), "sys/devices/system/cpu/online", "0-18446744073709551615\n");
    let environment = Environment::capture_from(dir.path());
    for why in [environment.load_average.why(), environment.memory_bytes.why(), environment.cpus_online.why()]
    {
        assert!(!why.is_empty());
    }
}

#[test]
fn this_machine_can_be_read_and_stored() {
    let environment = Environment::capture();
    assert!(environment.kernel.value.is_some());
    assert!(environment.cpus_usable.value.is_some_and(|cpus| cpus > 0));
    assert!(!iommu_results::revision().is_empty());
}

#[test]
fn facts_of_a_later_version_are_kept() {
    let text = serde_json::to_string(&Environment::capture()).unwrap();
    let more = text.replacen('{', r#"{"microcode":{"value":"0x1"},"#, 1);
    let environment: Environment = serde_json::from_str(&more).unwrap();
    assert_eq!(environment.more["microcode"].value, Some("0x1".into()));
    assert!(serde_json::to_string(&environment).unwrap().contains(r#""microcode":{"value":"0x1"}"#));
}
