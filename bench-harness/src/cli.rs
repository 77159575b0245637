//! The command line.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use iommu_workloads::scenario::parse_int;
use thiserror::Error;

use crate::duration;

const EXAMPLES: &str = "\
Examples:
  iommu-bench run netperf-strict                    what does strict mode cost?
  iommu-bench run netperf-matrix --quick            all tests and modes, a few seconds
  iommu-bench run netperf-strict --set message_bytes=65536 --json > run.json
  iommu-bench list                                  the built-in scenarios
  iommu-bench ab --base main --head HEAD netperf-strict   did it get slower?
  iommu-bench report results/runs/<RUN>             make the HTML report again

Exit codes: 0 ok, better or same, 1 worse, 2 usage, 3 a prerequisite is missing on
this machine, 4 the run failed or could not be stored, 5 inconclusive, 130
interrupted (partial result saved).";

const RUN_EXAMPLES: &str = "\
Examples:
  iommu-bench run netperf-strict --duration 2s
  iommu-bench run netperf-matrix --modes off,strict --quick
  iommu-bench run ./mine.toml --set mtu=9000 --set flows=4 --out /tmp/runs
  iommu-bench run dma-throughput --sweep transfer_bytes=64,4K,64K,1M
  iommu-bench run netperf-strict --packets 10000 --seed 7 --json   exact counts, repeatable
  iommu-bench run netperf-strict --machine lab                     in an emulated host with VT-d
  iommu-bench run netperf-strict --machine guest                   netperf in Linux in QEMU, with its own driver
  iommu-bench run netperf-strict --machine guest --viommu reference,qemu-virtio";

/// Measures what I/O address translation costs, and where.
#[derive(Debug, Parser)]
#[command(name = "iommu-bench", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    /// Log more to standard error: -v what devices and drivers do, -vv each refused request
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a scenario, print a summary, store the result and its report
    Run(Box<RunArgs>),
    /// List the built-in scenarios
    List(ListArgs),
    /// Print a scenario as TOML, with the cases it expands to
    Show(ShowArgs),
    /// List every metric, histogram and count: unit, direction, meaning
    Metrics(crate::metrics::MetricsArgs),
    /// Compare mapping tables, and measure the figures of the map/unmap fast path
    Tables(crate::tables::TablesArgs),
    /// What this machine can do, what that enables, and what would help
    Doctor(crate::doctor::DoctorArgs),
    /// Watch KVM, IOMMU, DMA or the device in any process of this host, live
    Trace(crate::trace::TraceArgs),
    /// Compare two stored runs
    Compare(Box<crate::compare::CompareArgs>),
    /// Compare two builds, measured in turn until the intervals decide
    Ab(Box<crate::ab::AbArgs>),
    /// Compare as a policy says, for continuous integration
    Gate(Box<crate::gate::GateArgs>),
    /// Make report.html of a stored run again
    Report(ReportArgs),
    /// Build a static site of a store: histories, change points, runs side by side
    Dashboard(crate::dashboard::DashboardArgs),
    /// Verify, tidy, import and export a store of runs
    Store(crate::store::StoreArgs),
    /// Serve the IOMMU, two network cards and a disk to QEMU (10.1 or later) over vfio-user
    Serve(crate::serve::ServeArgs),
    /// Run any of these commands inside the emulated host
    Lab(crate::lab::LabArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub(crate) struct RunArgs {
    /// Name of a built-in scenario, or a scenario file ending in .toml
    #[arg(value_name = "SCENARIO|FILE.toml", value_hint = ValueHint::FilePath)]
    pub(crate) scenario: String,
    /// Where the scenario runs [default: the scenario's, which is local unless it says otherwise]
    #[arg(long, value_enum)]
    pub(crate) machine: Option<MachineKind>,
    /// What does the DMA: emulated, passthrough, passthrough=BDF, or all [default: the scenario's]
    #[arg(long, value_name = "KIND")]
    pub(crate) endpoint: Option<EndpointKind>,
    /// Hand real devices over to vfio-pci for the run, and back afterwards
    #[arg(long)]
    pub(crate) bind: bool,
    /// Address of the real disk that may be written to: what is on it is lost
    #[arg(long, value_name = "BDF", value_parser = bdf)]
    pub(crate) allow_writes: Option<String>,
    /// Address of a real device that is taken although the host uses it, or may: what uses it breaks; may be given several times
    #[arg(long, value_name = "BDF", value_parser = bdf)]
    pub(crate) allow_in_use: Vec<String>,
    /// Only these modes, comma-separated: off, identity, lazy, strict
    #[arg(long, value_name = "MODE,…", value_delimiter = ',')]
    pub(crate) modes: Vec<String>,
    /// Measured time of each case, such as 500ms, 2s or 1m30s [default: the scenario's]
    #[arg(long, value_name = "TIME", value_parser = duration::parse, conflicts_with = "packets")]
    pub(crate) duration: Option<Duration>,
    /// Exactly N packets (or round trips) a case, inline service, virtual clock: repeatable counts, no times
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) packets: Option<u64>,
    /// A short run for a first look: wide intervals
    #[arg(long, conflicts_with_all = ["duration", "packets"])]
    pub(crate) quick: bool,
    /// Seed of every random choice [default: the scenario's]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Folder that gets a new folder for this run
    #[arg(long, value_name = "DIR", default_value = "results/runs", value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,
    /// Change a key of the scenario, such as mtu=9000 or TCP_RR.message_bytes=1,64; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// One run with a case for each value, and curves against them; given twice, a grid
    #[arg(long, value_name = "KEY=A,B,C")]
    pub(crate) sweep: Vec<String>,
    /// Record about N page accesses of each case afterwards, untimed, for the models of IOTLB churn; 0 for none
    #[arg(long, value_name = "N", default_value = "128K", value_parser = accesses)]
    pub(crate) churn: u64,
    /// Observe with kernel probes
    #[arg(long, value_enum, default_value_t = Probes::Auto)]
    pub(crate) probes: Probes,
    /// Print the result as JSON on standard output; what is for people goes to standard error
    #[arg(long)]
    pub(crate) json: bool,
    /// Print errors only (and the JSON with --json)
    #[arg(long, short)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) lab: crate::lab::LabOptions,
    #[command(flatten)]
    pub(crate) guest: crate::guest::GuestOptions,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Name of a built-in scenario, or a scenario file ending in .toml
    #[arg(value_name = "SCENARIO|FILE.toml", value_hint = ValueHint::FilePath)]
    pub(crate) scenario: String,
    /// As JSON: the cases with their parameters
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The run's folder, its run.json, or its name in the store
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) run: PathBuf,
    /// Store in which a name is looked up
    #[arg(long, value_name = "DIR", default_value = "results/runs", value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,
    /// Print the run as JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Most accesses that are recorded of a case.
const MOST_ACCESSES: u64 = 1 << 26;

/// A number of accesses, with `K` or `M` for 2^10 or 2^20.
fn accesses(text: &str) -> Result<u64, TooManyAccesses> {
    parse_int(text).filter(|accesses| *accesses <= MOST_ACCESSES).ok_or(TooManyAccesses)
}

/// `--churn` with something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected 0 (record nothing) or a number of accesses up to 64M, such as 128K")]
pub(crate) struct TooManyAccesses;

/// Where a scenario runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MachineKind {
    /// In this process: driver, device and endpoint over shared guest memory; no kernel, VFIO or KVM in the path
    Local,
    /// A bare payload under /dev/kvm
    Kvm,
    /// A Linux guest whose own driver uses the device
    Guest,
    /// An emulated host with a hardware IOMMU and VFIO
    Lab,
}

/// Which endpoints do the DMA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EndpointKind {
    /// The project's own device models.
    Emulated,
    /// A real device through VFIO, by PCI address or the first one found.
    Passthrough(Option<String>),
    /// All of them.
    All,
}

impl std::fmt::Display for EndpointKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Emulated => f.write_str("emulated"),
            Self::Passthrough(None) => f.write_str("passthrough"),
            Self::Passthrough(Some(bdf)) => write!(f, "passthrough={bdf}"),
            Self::All => f.write_str("all"),
        }
    }
}

/// `--endpoint` with something else.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("expected emulated, passthrough, passthrough=BDF (such as passthrough=0000:01:00.0) or all")]
pub(crate) struct UnknownEndpoint;

impl FromStr for EndpointKind {
    type Err = UnknownEndpoint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            None if text == "emulated" => Ok(Self::Emulated),
            None if text == "passthrough" => Ok(Self::Passthrough(None)),
            None if text == "all" => Ok(Self::All),
            Some(("passthrough", bdf)) if is_bdf(bdf) => Ok(Self::Passthrough(Some(bdf.to_owned()))),
            _ => Err(UnknownEndpoint),
        }
    }
}

/// `--allow-writes` or `--allow-in-use` with something else.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("expected a PCI address, such as 0000:01:00.0")]
pub(crate) struct NoBdf;

fn bdf(text: &str) -> Result<String, NoBdf> {
    if is_bdf(text) { Ok(text.to_owned()) } else { Err(NoBdf) }
}

/// `[DDDD:]BB:DD.F`
fn is_bdf(text: &str) -> bool {
    let hex = |part: &str, len: usize| part.len() == len && part.bytes().all(|b| b.is_ascii_hexdigit());
    let Some((rest, function)) = text.rsplit_once('.') else { return false };
    let parts: Vec<&str> = rest.split(':').collect();
    let address = match parts[..] {
        [bus, device] => hex(bus, 2) && hex(device, 2),
        [domain, bus, device] => hex(domain, 4) && hex(bus, 2) && hex(device, 2),
        _ => false,
    };
    address && matches!(function.as_bytes(), [b'0'..=b'7'])
}

/// Whether kernel probes are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Probes {
    /// The default set, as far as it can be attached, in every other round: the run measures what it costs
    Auto,
    /// As auto, and a separate pass with the sites of device and driver, for the breakdown of a request's time
    On,
    /// None
    Off,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn endpoints() {
        assert_eq!("emulated".parse(), Ok(EndpointKind::Emulated));
        assert_eq!("all".parse(), Ok(EndpointKind::All));
        assert_eq!("passthrough".parse(), Ok(EndpointKind::Passthrough(None)));
        let bdf = "0000:01:00.0".to_owned();
        assert_eq!("passthrough=0000:01:00.0".parse(), Ok(EndpointKind::Passthrough(Some(bdf))));
        for text in ["", "emulate", "passthrough=", "passthrough=1", "passthrough=00:01.9", "emulated=1"] {
            assert_eq!(text.parse::<EndpointKind>(), Err(UnknownEndpoint), "{text:?}");
        }
    }
}
