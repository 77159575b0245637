//! What the machine is: each fact, or the reason why it could not be read.
//!
//! The host's name is not recorded, so that a run can be shared as it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A fact about the machine, or why it is unknown: `{value}` or `{value: null, reason}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact<T> {
    /// The fact, if it could be read.
    pub value: Option<T>,
    /// Why it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl<T> Fact<T> {
    /// A fact that was read.
    pub fn known(value: T) -> Self {
        Self { value: Some(value), reason: None }
    }

    /// A fact that could not be read.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self { value: None, reason: Some(reason.into()) }
    }

    /// The reason of an unknown fact, or an empty string.
    pub fn why(&self) -> &str {
        self.reason.as_deref().unwrap_or_default()
    }

    fn of(read: Result<T, String>) -> Self {
        read.map_or_else(Self::unknown, Self::known)
    }
}

/// What the machine was when the run started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Processor model.
    pub cpu_model: Fact<String>,
    /// Processors online in the machine.
    pub cpus_online: Fact<u64>,
    /// Processors that this process may use (affinity and cgroup quota).
    pub cpus_usable: Fact<u64>,
    /// State of simultaneous multithreading.
    pub smt: Fact<String>,
    /// Memory in bytes.
    pub memory_bytes: Fact<u64>,
    /// Kernel release.
    pub kernel: Fact<String>,
    /// Name of the distribution.
    pub os: Fact<String>,
    /// Hypervisor under this machine, or `none`.
    pub hypervisor: Fact<String>,
    /// Container around this process, or `none`.
    pub container: Fact<String>,
    /// Frequency governor.
    pub governor: Fact<String>,
    /// Whether the processor may exceed its nominal frequency.
    pub boost: Fact<String>,
    /// Transparent huge pages: `always`, `madvise` or `never`.
    pub thp: Fact<String>,
    /// The kernel's clock source.
    pub clock_source: Fact<String>,
    /// Load average over one minute when the run started.
    pub load_average: Fact<f64>,
    /// `release` or `debug`: how the tool was built.
    pub build_profile: Fact<String>,
    /// Facts that a later version or another machine adds.
    #[serde(flatten)]
    pub more: BTreeMap<String, Fact<serde_json::Value>>,
}

impl Environment {
    /// Reads the facts of this machine.
    pub fn capture() -> Self {
        Self::capture_from(Path::new("/"))
    }

    /// Reads the facts from the `proc`, `sys` and `etc` trees under `root`.
    pub fn capture_from(root: &Path) -> Self {
        let tree = Tree(root);
        Self {
            cpu_model: Fact::of(cpu_model(&tree)),
            cpus_online: Fact::of(
                tree.read("sys/devices/system/cpu/online").and_then(|list| count_cpus(&list)),
            ),
            cpus_usable: Fact::of(
                std::thread::available_parallelism().map(|n| n.get() as u64).map_err(|e| e.to_string()),
            ),
            smt: Fact::of(tree.read("sys/devices/system/cpu/smt/control")),
            memory_bytes: Fact::of(memory_bytes(&tree)),
            kernel: Fact::of(tree.read("proc/sys/kernel/osrelease")),
            os: Fact::of(os_name(&tree)),
            hypervisor: Fact::of(hypervisor(&tree)),
            container: Fact::known(container(&tree)),
            governor: Fact::of(governor(&tree)),
            boost: Fact::of(boost(&tree)),
            thp: Fact::of(
                tree.read("sys/kernel/mm/transparent_hugepage/enabled").and_then(|text| selected(&text)),
            ),
            clock_source: Fact::of(
                tree.read("sys/devices/system/clocksource/clocksource0/current_clocksource"),
            ),
            load_average: Fact::of(load_average(&tree)),
            build_profile: Fact::known(if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned()),
            more: BTreeMap::new(),
        }
    }

    /// Name and value of every fact for a reader; an unknown one is `Err` with the reason.
    pub fn rows(&self) -> Vec<(&'static str, Result<String, String>)> {
        fn row<T>(fact: &Fact<T>, show: impl Fn(&T) -> String) -> Result<String, String> {
            fact.value.as_ref().map(show).ok_or_else(|| fact.why().to_owned())
        }
        let text = |fact: &Fact<String>| row(fact, String::clone);
        vec![
            ("processor", text(&self.cpu_model)),
            ("processors online", row(&self.cpus_online, u64::to_string)),
            ("processors usable", row(&self.cpus_usable, u64::to_string)),
            ("SMT", text(&self.smt)),
            (
                "memory",
                row(&self.memory_bytes, |bytes| format!("{:.1} GiB", *bytes as f64 / (1_u64 << 30) as f64)),
            ),
            ("kernel", text(&self.kernel)),
            ("system", text(&self.os)),
            ("hypervisor", text(&self.hypervisor)),
            ("container", text(&self.container)),
            ("frequency governor", text(&self.governor)),
            ("frequency boost", text(&self.boost)),
            ("transparent huge pages", text(&self.thp)),
            ("clock source", text(&self.clock_source)),
            ("load average, 1 min", row(&self.load_average, |load| format!("{load:.2}"))),
            ("build", text(&self.build_profile)),
        ]
    }

    /// What about this machine a reader must know before believing the figures.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.build_profile.value.as_deref() == Some("debug") {
            warnings.push(
                "debug build: the times mean nothing, only the counts do; use a release build".to_owned(),
            );
        }
        match self.hypervisor.value.as_deref() {
            Some("none") => {}
            Some(name) => warnings.push(format!(
                "this machine is itself a virtual machine ({name}): its processors may be taken away or emulated, so compare ratios rather than times"
            )),
            None => warnings.push(format!("whether this machine is virtual is unknown: {}", self.hypervisor.why())),
        }
        match self.governor.value.as_deref() {
            Some("performance") => {}
            Some(name) => warnings.push(format!(
                "the frequency governor is `{name}`, not `performance`: the clock may change during the run"
            )),
            None => warnings.push(format!(
                "the frequency governor is unknown ({}): the clock may change during the run",
                self.governor.why()
            )),
        }
        if let Some(source) = self.clock_source.value.as_deref()
            && !FAST_CLOCKS.contains(&source)
        {
            warnings
                .push(format!("the clock source is `{source}`: reading the clock may cost a system call"));
        }
        if let (Some(load), Some(cpus)) = (self.load_average.value, self.cpus_usable.value)
            && load > cpus as f64 * 0.5
        {
            warnings.push(format!(
                "the load average was {load:.2} on {cpus} usable processors when the run started: other work competes for them"
            ));
        }
        warnings
    }
}

/// Clock sources that a process reads without entering the kernel.
const FAST_CLOCKS: [&str; 4] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"];

/// Git revision that this build was made from, with `-dirty` when tracked files differed; `unknown` without git.
pub fn revision() -> &'static str {
    env!("IOMMU_BENCH_REVISION")
}

/// The file system below some root.
struct Tree<'a>(&'a Path);

impl Tree<'_> {
    /// The trimmed text of a file, or why it cannot be read, naming it.
    fn read(&self, path: &str) -> Result<String, String> {
        match fs::read(self.0.join(path)) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim().to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(format!("/{path} does not exist"))
            }
            Err(error) => Err(format!("/{path}: {error}")),
        }
    }

    fn exists(&self, path: &str) -> bool {
        self.0.join(path).exists()
    }
}

/// Value of the first `key : value` line.
fn colon_value<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().filter_map(|line| line.split_once(':')).find(|(k, _)| k.trim() == key).map(|(_, v)| v.trim())
}

fn cpu_model(tree: &Tree<'_>) -> Result<String, String> {
    let info = tree.read("proc/cpuinfo")?;
    if let Some(model) =
        ["model name", "Model", "cpu model", "uarch"].iter().find_map(|key| colon_value(&info, key))
    {
        return Ok(model.to_owned());
    }
    // arm64 names no model, only who designed the core and which part it is.
    match (colon_value(&info, "CPU implementer"), colon_value(&info, "CPU part")) {
        (Some(implementer), Some(part)) => Ok(format!("implementer {implementer} part {part}")),
        _ => Err("/proc/cpuinfo names no model".to_owned()),
    }
}

/// Counts a list such as `0-3,8`.
fn count_cpus(list: &str) -> Result<u64, String> {
    let bad = || format!("`{list}` is not a list of processors");
    list.split(',').try_fold(0_u64, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u64, u64) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
        let size = last.checked_sub(first).and_then(|width| width.checked_add(1)).ok_or_else(bad)?;
        sum.checked_add(size).ok_or_else(bad)
    })
}

fn memory_bytes(tree: &Tree<'_>) -> Result<u64, String> {
    let info = tree.read("proc/meminfo")?;
    colon_value(&info, "MemTotal")
        .and_then(|value| value.strip_suffix("kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok())
        .and_then(|kib| kib.checked_mul(1024))
        .ok_or_else(|| "/proc/meminfo has no readable MemTotal".to_owned())
}

fn os_name(tree: &Tree<'_>) -> Result<String, String> {
    let text = tree.read("etc/os-release")?;
    text.lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .ok_or_else(|| "/etc/os-release has no PRETTY_NAME".to_owned())
}

/// Names the hypervisor as far as the guest can tell.
fn hypervisor(tree: &Tree<'_>) -> Result<String, String> {
    let named = ["sys/hypervisor/type", "sys/class/dmi/id/product_name", "sys/class/dmi/id/sys_vendor"];
    let info = tree.read("proc/cpuinfo")?;
    let flagged =
        colon_value(&info, "flags").map(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"));
    match flagged {
        Some(true) => Ok(named
            .iter()
            .find_map(|path| tree.read(path).ok().filter(|name| !name.is_empty()))
            .unwrap_or_else(|| "unnamed, reported by the processor's hypervisor flag".to_owned())),
        Some(false) => Ok("none".to_owned()),
        None => match tree.read("sys/hypervisor/type") {
            Ok(name) if !name.is_empty() => Ok(name),
            _ => Err("/proc/cpuinfo has no flags on this architecture".to_owned()),
        },
    }
}

/// Names the container runtime from the marks that the common ones leave; `none` means that no mark was found.
fn container(tree: &Tree<'_>) -> String {
    if let Ok(environ) = tree.read("proc/1/environ")
        && let Some(name) = environ.split('\0').find_map(|entry| entry.strip_prefix("container="))
    {
        return name.to_owned();
    }
    for (path, name) in [(".dockerenv", "docker"), ("run/.containerenv", "podman")] {
        if tree.exists(path) {
            return name.to_owned();
        }
    }
    if let Ok(name) = tree.read("run/systemd/container") {
        return name;
    }
    let groups = tree.read("proc/1/cgroup").unwrap_or_default();
    let marks =
        [("kubepods", "kubernetes"), ("docker", "docker"), ("containerd", "containerd"), ("/lxc", "lxc")];
    marks.iter().find(|(mark, _)| groups.contains(mark)).map_or("none", |(_, name)| name).to_owned()
}

/// The governor of every processor, in the order of first appearance.
fn governor(tree: &Tree<'_>) -> Result<String, String> {
    let first = tree.read("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")?;
    let mut names = vec![first];
    for cpu in 1.. {
        match tree.read(&format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor")) {
            Ok(name) if names.contains(&name) => {}
            Ok(name) => names.push(name),
            Err(_) => break,
        }
    }
    Ok(names.join(", "))
}

fn boost(tree: &Tree<'_>) -> Result<String, String> {
    let on_off = |on: bool| if on { "on" } else { "off" }.to_owned();
    if let Ok(no_turbo) = tree.read("sys/devices/system/cpu/intel_pstate/no_turbo") {
        return Ok(on_off(no_turbo == "0"));
    }
    tree.read("sys/devices/system/cpu/cpufreq/boost").map(|boost| on_off(boost == "1"))
}

/// The bracketed word of `always [madvise] never`.
fn selected(text: &str) -> Result<String, String> {
    text.split_whitespace()
        .find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
        .map(str::to_owned)
        .ok_or_else(|| format!("no choice is marked in `{text}`"))
}

fn load_average(tree: &Tree<'_>) -> Result<f64, String> {
    let text = tree.read("proc/loadavg")?;
    text.split_whitespace()
        .next()
        .and_then(|first| first.parse::<f64>().ok())
        .filter(|load| load.is_finite())
        .ok_or_else(|| format!("/proc/loadavg reads `{text}`"))
}
