//! `iommu-bench trace`: what happens in any process on this host, live.

mod output;
mod source;
mod target;
mod watch;

use std::time::Duration;

use clap::{Args, ValueEnum};
use iommu_probes::Group;

use crate::{exit::Exit, failure::Failure};
use source::Sources;
use target::Target;

const EXAMPLES: &str = "\
Examples:
  iommu-bench trace                                  KVM, IOMMU and DMA of the whole host
  iommu-bench trace kvm --comm qemu-system-x86       exits of QEMU's threads
  iommu-bench trace profile --pid 4711 --duration 10s
  iommu-bench trace kvm iommu --interval 500ms --json | jq -c '.probes[]|{name,count}'

Ends with the totals: at Ctrl-C, after --duration, or when the process is gone.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TraceArgs {
    /// What to watch [default: kvm iommu dma]
    #[arg(value_enum)]
    what: Vec<What>,
    /// Only this process
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=i32::MAX as i64))]
    pid: Option<u32>,
    /// Only threads with this name (for device and profile: the process with this name)
    #[arg(long, value_name = "NAME", conflicts_with = "pid")]
    comm: Option<String>,
    /// Time between tables, such as 500ms or 2s
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = crate::duration::parse_interval)]
    interval: Duration,
    /// End after this time [default: at Ctrl-C]
    #[arg(long, value_name = "TIME", value_parser = crate::duration::parse)]
    duration: Option<Duration>,
    /// One JSON object an interval and a last one with the totals, schema iommu-bench/trace/1
    #[arg(long)]
    json: bool,
}

/// What can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Exits, doorbells and interrupts of virtual machines
    Kvm,
    /// The kernel's IOMMU layer: mappings, invalidations, faults
    Iommu,
    /// The kernel's DMA API
    Dma,
    /// VFIO and iommufd: what a VMM asks for
    Vfio,
    /// Requests of this project's device and driver, by their trace points (needs --pid or --comm)
    Device,
    /// Where a process spends its time, by samples (needs --pid or --comm)
    Profile,
}

impl What {
    fn group(self) -> Option<Group> {
        match self {
            Self::Kvm => Some(Group::Kvm),
            Self::Iommu => Some(Group::Iommu),
            Self::Dma => Some(Group::Dma),
            Self::Vfio => Some(Group::Vfio),
            Self::Device | Self::Profile => None,
        }
    }
}

/// `iommu-bench trace`.
///
/// # Errors
/// When there is no such process, nothing can be attached, or standard output cannot be written.
pub(crate) fn trace(args: &TraceArgs) -> Result<Exit, Failure> {
    let defaults = [What::Kvm, What::Iommu, What::Dma];
    let what = if args.what.is_empty() { &defaults[..] } else { &args.what };
    let target = Target::find(args.pid, args.comm.as_deref())?;
    let sources = Sources::attach(what, &target)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("no event loop: {error}")))?;
    runtime.block_on(watch::watch(args, &target, sources))
}
