//! `serve`: the IOMMU and its endpoints for anybody's QEMU.

use std::{
    fs,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum, ValueHint};
use virtio_transport::ServiceMode;

use crate::{duration, exit::Exit, failure::Failure, interrupt::Interrupt, out};

pub(crate) mod address;
pub(crate) mod faults;
pub(crate) mod platform;
pub(crate) mod qemu;
mod statistics;
pub(crate) mod viot;
pub(crate) mod volume;

use address::Unit;
use faults::FaultLog;
use platform::{Platform, PlatformOptions, Snapshot};

const EXAMPLES: &str = "\
Examples:
  iommu-bench serve --socket-dir /tmp/iommu         then start QEMU as it says
  iommu-bench serve --socket-dir /tmp/iommu --print-qemu     only print the command
  iommu-bench serve --socket-dir /tmp/iommu --json --interval 10s > counts.json

The guest sees a virtio-iommu, two network cards joined by a cable, and a disk;
the kernel's own drivers work with them. Needs QEMU 10.1 or later (Debian 13:
package qemu-system-x86 of trixie-backports) and, for the guest, a kernel with
CONFIG_VIRTIO_IOMMU (all of Debian's). Ctrl-C ends it and resets the devices.";

/// How often Ctrl-C is looked for.
const TICK: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServeArgs {
    /// Folder for the sockets and the VIOT table; made if it is not there
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) socket_dir: PathBuf,
    /// How devices hear of work: from the message that a guest's doorbell becomes, or by looking all the time
    #[arg(long, value_enum, default_value_t = Doorbell::Exit)]
    pub(crate) doorbell: Doorbell,
    /// Size of the disk (in memory, empty at the start) in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) disk: u32,
    /// The disk has no MSI-X: QEMU 11.1 aborts when a vfio-user device that has it is unplugged (device_del)
    #[arg(long)]
    pub(crate) disk_intx: bool,
    /// How often statistics are shown
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration::parse_interval)]
    pub(crate) interval: Duration,
    /// Write the VIOT table, print the QEMU command, and end
    #[arg(long, conflicts_with = "json")]
    pub(crate) print_qemu: bool,
    /// Print counters as JSON on standard output, one object an interval, the last with `final: true`
    #[arg(long)]
    pub(crate) json: bool,
}

/// How devices hear of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Doorbell {
    /// Each doorbell is a message; it is served on the socket's thread
    Exit,
    /// A thread for each queue looks all the time; the guest is asked not to ring
    Poll,
}

impl Doorbell {
    fn mode(self) -> ServiceMode {
        match self {
            Self::Exit => ServiceMode::Inline,
            Self::Poll => ServiceMode::Poll,
        }
    }
}

/// Serves until it is interrupted.
///
/// # Errors
/// When the folder cannot be used, or a device fails.
pub(crate) fn serve(args: &ServeArgs) -> Result<Exit, Failure> {
    let folder = prepare(&args.socket_dir)?;
    if args.print_qemu {
        out::print(&(qemu::command(&folder) + "\n"))?;
        return Ok(Exit::Ok);
    }
    let interrupt = Interrupt::install_saying("Ending: devices are reset.").map_err(Failure::failed)?;
    let options = PlatformOptions {
        service: args.doorbell.mode(),
        iommu: true,
        disk_mib: Some(args.disk),
        disk_intx: args.disk_intx,
    };
    let platform = Platform::start(&folder, &options, Box::new(FaultLog::default()))
        .map_err(|error| Failure::failed(error).with_remedy("choose another folder with --socket-dir"))?;
    let say = |text: &str| {
        // Nothing is left to be told when standard error is gone.
        let _ = writeln!(anstream::stderr(), "{text}");
    };
    say(&format!("Serving in {}. Start QEMU:\n\n{}\n", folder.display(), qemu::command(&folder)));
    let (failure, last) = watch(args, &platform, &interrupt)?;
    say(&statistics::summary(&last));
    match failure {
        Some(cause) => Err(Failure::failed(format!("a device failed: {cause}"))),
        None => Ok(Exit::Ok),
    }
}

/// The folder, for this user only, with the table in it; an absolute path, since QEMU may run elsewhere.
fn prepare(folder: &Path) -> Result<PathBuf, Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    let failed = |error: std::io::Error| {
        Failure::failed(format!("{}: {error}", folder.display())).with_remedy("choose another --socket-dir")
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let folder = fs::canonicalize(folder).map_err(failed)?;
    fs::write(folder.join(qemu::VIOT_FILE), viot::table(&Unit::ENDPOINTS)).map_err(failed)?;
    Ok(folder)
}

/// Shows statistics until the end.
fn watch(
    args: &ServeArgs,
    platform: &Platform,
    interrupt: &Interrupt,
) -> Result<(Option<String>, Snapshot), Failure> {
    let live = !args.json && std::io::stderr().is_terminal();
    let started = Instant::now();
    let (mut before, mut shown) = (platform.snapshot(), Instant::now());
    loop {
        thread::sleep(TICK.min(args.interval));
        let failure = platform.failure();
        let last = failure.is_some() || interrupt.requested();
        if !last && shown.elapsed() < args.interval {
            continue;
        }
        let now = platform.snapshot();
        if args.json {
            let text = statistics::object(&now, started.elapsed(), last).to_string();
            out::print(&(text + "\n"))?;
        } else if live {
            let text = statistics::line(&before, &now, shown.elapsed());
            // A terminal that is gone needs no statistics.
            let _ = write!(anstream::stderr(), "\r\x1b[K{text}").and_then(|()| anstream::stderr().flush());
        }
        if last {
            if live {
                let _ = writeln!(anstream::stderr());
            }
            return Ok((failure, now));
        }
        (before, shown) = (now, Instant::now());
    }
}
