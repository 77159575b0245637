//! The emulated host: `--machine lab`, and `lab` for any other command.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueHint};
use iommu_lab::{Ended, Event, Job, Lab, Machine, PrepareError, SessionError, Sources, job::INSIDE, session};

use crate::{
    exit::Exit,
    failure::Failure,
    guest,
    interrupt::Interrupt,
    out,
    progress::{self, Progress},
};

mod run;

pub(crate) use run::run_inside;

/// Memory of the emulated host beside what a scenario asks for, in MiB.
const DEFAULT_MEMORY_MIB: u32 = 3072;
/// The lab has no use for less.
const LEAST_MEMORY_MIB: i64 = 1024;

/// How the emulated host is made.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Lab (the emulated host of --machine lab)")]
pub(crate) struct LabOptions {
    /// Kernel image (bzImage) instead of the distribution's; its modules must be beside it or in /lib/modules
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) kernel: Option<PathBuf>,
    /// Further words of its command line, such as "iommu.strict=0 iommu.passthrough=1"
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub(crate) kernel_args: Option<String>,
    /// A qemu-system-x86_64 [default: the one in PATH, else the distribution's, unpacked into the cache]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) qemu: Option<PathBuf>,
    /// Where kernel and QEMU are kept [default: ~/.cache/iommu-bench/lab]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) lab_cache: Option<PathBuf>,
    /// Memory of the emulated host in MiB
    #[arg(long, value_name = "MIB", default_value_t = DEFAULT_MEMORY_MIB,
          value_parser = clap::value_parser!(u32).range(LEAST_MEMORY_MIB..=1 << 20))]
    pub(crate) lab_memory: u32,
}

const EXAMPLES: &str = "\
Examples:
  iommu-bench lab --prepare                         fetch kernel and QEMU, nothing else
  iommu-bench lab -- run netperf-strict --json > run.json
  iommu-bench lab --kernel-args iommu.passthrough=1 -- list
  iommu-bench lab --with-guest -- run netperf-strict --machine guest --probes on

Exit codes: those of the command; 3 when the lab cannot be prepared.";

/// `lab`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LabArgs {
    #[command(flatten)]
    lab: LabOptions,
    /// Fetch and unpack what the lab is made of, and stop
    #[arg(long)]
    prepare: bool,
    /// Take along what --machine guest needs, for a guest under the lab's nested KVM
    #[arg(long)]
    with_guest: bool,
    /// Folder that gets the console's log and what the command leaves in /out
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    keep: Option<PathBuf>,
    /// Command and options, as they would be given to iommu-bench
    #[arg(last = true, value_name = "COMMAND", required_unless_present = "prepare")]
    command: Vec<String>,
}

/// Runs a command inside; its standard output and error are this command's.
///
/// # Errors
/// When the lab cannot be prepared or breaks.
pub(crate) fn command(args: &LabArgs) -> Result<Exit, Failure> {
    let interrupt = Interrupt::install().map_err(Failure::failed)?;
    let mut progress = Progress::new(Duration::ZERO, false);
    let mut lab = prepared(&args.lab, &progress)?;
    if args.prepare {
        progress.finish();
        out::print(&format!("kernel {}\n{}\n", lab.release, lab.qemu.version))?;
        return Ok(Exit::Ok);
    }
    let work = WorkFolder::new(args.keep.as_deref())?;
    let mut job = Job { args: args.command.clone(), ..Job::default() };
    if args.with_guest {
        let packed = guest::pack(&mut job, &mut |what| progress.now(&format!("guest: {what}")));
        let newer = packed.map_err(|error| {
            let remedy = "docs/guest.md says what a guest needs";
            Failure::prerequisite(format!("the guest cannot be prepared: {error}"), remedy)
        })?;
        if args.lab.qemu.is_none() {
            // Linux does not run for long on the virtualisation that QEMU 7.2 emulates; on that of 11.1 it does.
            lab.qemu = newer;
        }
    }
    let ended = inside(&args.lab, &lab, job, work.path(), &interrupt, &mut progress)
        .map_err(|error| work.blame(error))?;
    progress.finish();
    out::print_bytes(&ended.stdout)?;
    match Exit::from_code(ended.code) {
        Some(exit) => Ok(exit),
        None => Err(Failure::failed(format!("the command ended with code {} inside the lab", ended.code))),
    }
}

/// Kernel and QEMU.
fn prepared(options: &LabOptions, progress: &Progress) -> Result<Lab, Failure> {
    let sources = Sources {
        kernel: options.kernel.clone(),
        qemu: options.qemu.clone(),
        cache: options.lab_cache.clone(),
    };
    iommu_lab::prepare(&sources, &mut |what| progress.now(&format!("lab: {what}"))).map_err(unprepared)
}

fn unprepared(error: PrepareError) -> Failure {
    Failure::prerequisite(
        format!("the lab cannot be prepared: {error}"),
        "docs/lab.md says what it needs; --machine local needs nothing",
    )
}

/// Boots, runs the job and powers off.
fn inside(
    options: &LabOptions,
    lab: &Lab,
    mut job: Job,
    folder: &Path,
    interrupt: &Interrupt,
    progress: &mut Progress,
) -> Result<Ended, SessionError> {
    let machine = Machine {
        memory_mib: options.lab_memory,
        kernel_args: options
            .kernel_args
            .iter()
            .flat_map(|words| words.split_whitespace())
            .map(str::to_owned)
            .collect(),
        ..Machine::default()
    };
    let what = format!("{}, Linux {}, {}", lab.qemu.version, lab.release, machine.accel);
    job.env.insert(INSIDE.to_owned(), what);
    job.env.insert(progress::AS_LINES.to_owned(), "1".to_owned());
    let program = std::env::current_exe().map_err(SessionError::Myself)?;
    progress.now(&format!("lab: booting under {}", machine.accel));
    let mut relay = Relay::default();
    session::run(lab, &machine, &program, &job, folder, &|| interrupt.requested(), &mut |event| match event {
        Event::Up { up_ms } => progress.now(&format!("lab: up after {up_ms} ms")),
        Event::Stderr(bytes) => relay.take(bytes, progress),
        Event::Again(why) => progress.now(&format!("lab: once more: {why}")),
        Event::Tick => (),
    })
}

/// Passes standard error on, line by line, without the lines that are progress.
#[derive(Default)]
struct Relay {
    rest: Vec<u8>,
}

impl Relay {
    fn take(&mut self, bytes: &[u8], progress: &mut Progress) {
        self.rest.extend(bytes);
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            if !progress.relay(String::from_utf8_lossy(&line).trim_end()) {
                // Nothing is left to be told when standard error is gone.
                progress.aside(|| drop(std::io::stderr().write_all(&line)));
            }
        }
    }
}

/// Where a session works: kept when the user wants it or when something went wrong.
enum WorkFolder {
    Named(PathBuf),
    Temporary(tempfile::TempDir),
}

impl WorkFolder {
    fn new(keep: Option<&Path>) -> Result<Self, Failure> {
        match keep {
            None => tempfile::Builder::new().prefix("iommu-bench-lab-").tempdir().map(Self::Temporary),
            Some(path) => std::fs::create_dir_all(path).map(|()| Self::Named(path.to_owned())),
        }
        .map_err(|error| Failure::failed(format!("no folder for the lab's files: {error}")))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Named(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    /// Keeps the console for whoever wants to know why.
    fn blame(self, error: SessionError) -> Failure {
        if matches!(error, SessionError::Interrupted { .. }) {
            return Failure { exit: Exit::Interrupted, message: error.to_string(), remedy: None };
        }
        let path = match self {
            Self::Named(path) => path,
            Self::Temporary(folder) => folder.keep(),
        };
        Failure::failed(error)
            .with_remedy(format!("all of its console is in {}", path.join(session::CONSOLE_FILE).display()))
    }
}
