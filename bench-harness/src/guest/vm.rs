//! One guest: QEMU with our devices or its own, booted, and spoken to line by line.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use iommu_lab::{
    accel::Accel,
    cpio::Archive,
    session::{Tail, die_with_us},
};
use iommu_workloads::Mode;
use thiserror::Error;
use virtio_transport::ServiceMode;

use super::{
    line::{Answer, Complete, Greeting, LineError, greeting, pump},
    netperf::NetperfError,
    options::Viommu,
    prepare::Parts,
};
use crate::{
    interrupt::Interrupt,
    serve::{
        address::Unit,
        faults::FaultLog,
        platform::{Platform, PlatformOptions, Snapshot},
        qemu, viot,
    },
};

/// The first process.
const AGENT: &str = include_str!("agent.sh");
/// Name of the console's log.
const CONSOLE: &str = "console.log";
/// How long a kernel may take to come up while its console is silent, and at all.
const BOOT_SILENCE: Duration = Duration::from_secs(120);
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// How long a command may take beyond the time it is meant to.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// How much longer all of that may take where KVM itself is emulated.
const NESTED_SLOWNESS: u32 = 3;
/// How often it is looked whether all is well.
const TICK: Duration = Duration::from_millis(100);

/// What distinguishes one guest from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// What the guest's DMA API does.
    pub(super) mode: Mode,
    /// Which IOMMU it has.
    pub(super) viommu: Viommu,
    /// Where our devices work.
    pub(super) service: ServiceMode,
}

impl Kind {
    /// A name for files.
    pub(super) fn name(&self) -> String {
        let service = match self.service {
            ServiceMode::Inline => "exit",
            ServiceMode::Thread => "thread",
            ServiceMode::Poll => "poll",
        };
        match self.viommu {
            Viommu::QemuVirtio => format!("{}-qemu-virtio", self.mode),
            _ => format!("{}-{service}", self.mode),
        }
    }

    /// Whether the devices are ours.
    pub(super) fn ours(&self) -> bool {
        self.viommu != Viommu::QemuVirtio
    }

    /// Whether there is an IOMMU.
    pub(super) fn has_iommu(&self) -> bool {
        self.mode != Mode::Off
    }
}

/// A guest does not work.
#[derive(Debug, Error)]
pub(super) enum VmError {
    /// A file.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The devices cannot be served.
    #[error("the devices cannot be served: {0}")]
    Serve(String),
    /// QEMU does not start.
    #[error("QEMU cannot be started: {0}")]
    Start(io::Error),
    /// QEMU ended.
    #[error("QEMU ended ({status}) while {doing}; it said: {stderr}{tail}")]
    Died {
        /// What was under way.
        doing: String,
        /// How.
        status: ExitStatus,
        /// Its last line.
        stderr: String,
        /// End of the console.
        tail: Tail,
    },
    /// Nothing came.
    #[error("the guest gave no sign of life for {} s while {doing}{tail}", limit.as_secs())]
    Silent {
        /// What was under way.
        doing: String,
        /// How long.
        limit: Duration,
        /// End of the console.
        tail: Tail,
    },
    /// What came is wrong.
    #[error("{source}{tail}")]
    Line {
        /// In what way.
        source: LineError,
        /// End of the console.
        tail: Tail,
    },
    /// A command failed inside.
    #[error("`{command}` failed inside (exit code {status}): {said}{tail}")]
    Command {
        /// The command.
        command: String,
        /// Its exit code.
        status: i32,
        /// What it said.
        said: String,
        /// End of the console.
        tail: Tail,
    },
    /// A device's thread panicked.
    #[error("a device failed: {0}")]
    Device(String),
    /// netperf's output.
    #[error(transparent)]
    Netperf(#[from] NetperfError),
    /// The two sides disagree, or something is not as it must be.
    #[error("guest {guest}: {name}: {detail}")]
    Check {
        /// Which guest.
        guest: String,
        /// What must hold.
        name: String,
        /// What was seen.
        detail: String,
    },
    /// The user does not want to wait.
    #[error("interrupted while {0}")]
    Interrupted(String),
}

/// How a guest is booted.
pub(super) struct Boot<'a> {
    pub(super) parts: &'a Parts,
    pub(super) kind: Kind,
    pub(super) memory_mib: u32,
    /// Further words of the kernel's command line.
    pub(super) words: &'a [String],
    pub(super) interrupt: &'a Interrupt,
}

/// A guest that is up. QEMU is killed when it is dropped, then the devices go.
pub(super) struct Vm {
    qemu: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    asked: u64,
    interrupt: Interrupt,
    /// All limits are so much longer.
    slowness: u32,
    /// How long it took until the agent spoke.
    pub(super) boot: Duration,
    /// The guest's kernel, as it says.
    pub(super) release: String,
    platform: Option<Platform>,
    // Goes last: sockets are in it.
    folder: tempfile::TempDir,
}

impl Boot<'_> {
    /// Boots it; returns when the agent has spoken.
    pub(super) fn start(self) -> Result<Vm, VmError> {
        let kind = self.kind;
        let folder = tempfile::Builder::new()
            .prefix("iommu-bench-guest-")
            .tempdir()
            .map_err(|source| VmError::Io { path: std::env::temp_dir(), source })?;
        let place = folder.path();
        let failed = |path: PathBuf| move |source| VmError::Io { path, source };
        let initramfs = place.join("initramfs.cpio");
        self.write_root(&initramfs).map_err(failed(initramfs.clone()))?;
        let options = PlatformOptions {
            service: kind.service,
            iommu: kind.has_iommu(),
            disk_mib: None,
            disk_intx: false,
        };
        let platform =
            kind.ours().then(|| Platform::start(place, &options, Box::new(FaultLog::default()))).transpose();
        let platform = platform.map_err(|error| VmError::Serve(error.to_string()))?;
        if kind.ours() && kind.has_iommu() {
            let table = place.join(qemu::VIOT_FILE);
            fs::write(&table, viot::table(&[Unit::Nic0, Unit::Nic1])).map_err(failed(table.clone()))?;
        }
        let complaints = place.join("qemu.log");
        let log = fs::File::create(&complaints).map_err(failed(complaints))?;
        let mut command = self.command(place, &options);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        // Ctrl-C is ours to handle: QEMU shall not hear of it.
        command.process_group(0);
        let started = Instant::now();
        let mut qemu = die_with_us(&mut command).spawn().map_err(VmError::Start)?;
        let input = qemu.stdin.take();
        let (sender, lines) = channel();
        if let Some(output) = qemu.stdout.take() {
            thread::Builder::new()
                .name("guest-line".to_owned())
                .spawn(move || pump(output, &sender))
                .map_err(VmError::Start)?;
        }
        let mut vm = Vm {
            qemu,
            input,
            lines,
            asked: 0,
            folder,
            interrupt: self.interrupt.clone(),
            slowness: if self.parts.nested { NESTED_SLOWNESS } else { 1 },
            boot: Duration::ZERO,
            release: String::new(),
            platform,
        };
        vm.release = vm.wait_until_up()?;
        vm.boot = started.elapsed();
        Ok(vm)
    }

    /// Writes the guest's root: tools, modules, the agent.
    fn write_root(&self, place: &Path) -> io::Result<()> {
        let mut root = Archive::new(io::BufWriter::new(fs::File::create(place)?));
        for folder in ["bin", "dev", "proc", "sys", "tmp", "run", "lib64"] {
            root.folder(folder)?;
        }
        for folder in ["lib", "lib/modules", "lib/x86_64-linux-gnu"] {
            root.folder(folder)?;
        }
        root.character_device("dev/console", 5, 1)?;
        for (inside, here) in &self.parts.files {
            root.program(inside, &fs::read(here)?)?;
        }
        for (index, module) in self.parts.kernel.modules.iter().enumerate() {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            // The number keeps the order.
            root.file(&format!("lib/modules/{index:02}-{name}"), &fs::read(module)?)?;
        }
        root.program("init", AGENT.as_bytes())?;
        root.finish().map(drop)
    }

    fn command(&self, place: &Path, options: &PlatformOptions) -> Command {
        let mut command = self.parts.qemu.command();
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-no-reboot"]);
        command.args(["-monitor", "none", "-name", "iommu-bench-guest", "-smp"]);
        // The lab has no more.
        command.arg(if self.parts.nested { "1" } else { "2" });
        match self.parts.accel {
            Accel::Kvm => command.args(["-accel", "kvm", "-cpu", "host"]),
            // Without five-level page tables: every miss of the translator's would walk one level more.
            Accel::Tcg { .. } => command.args(["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"]),
        };
        let memory = format!("{}M", self.memory_mib);
        let units: Vec<Unit> = if self.kind.ours() { options.units() } else { Vec::new() };
        for (option, value) in qemu::arguments(place, &memory, &units) {
            command.arg(option).arg(value);
        }
        if !self.kind.ours() {
            for (option, value) in own_devices(self.kind.has_iommu()) {
                command.arg(option).arg(value);
            }
        }
        command.arg("-kernel").arg(&self.parts.kernel.image);
        command.arg("-initrd").arg(place.join("initramfs.cpio"));
        command.arg("-append").arg(self.kernel_command_line());
        let console = place.join(CONSOLE).display().to_string().replace(',', ",,");
        command.arg("-chardev").arg(format!("file,id=console,path={console}"));
        command.args(["-serial", "chardev:console", "-chardev", "stdio,id=line,signal=off"]);
        command.args(["-serial", "chardev:line"]);
        command
    }

    fn kernel_command_line(&self) -> String {
        let mut words = vec!["console=ttyS0", "panic=-1", "rdinit=/init", "guest_trace"];
        if self.parts.nested {
            // Each byte of the console is several exits, and each of those a millisecond.
            words.push("quiet");
        }
        if self.parts.nested || matches!(self.parts.accel, Accel::Tcg { .. }) {
            // The translator's clock is the host's, and no attack crosses it; delays are not calibrated on a busy host.
            words.extend(["tsc=reliable", "no_timer_check", "mitigations=off", "lpj=4000000"]);
        }
        words.extend(match self.kind.mode {
            Mode::Off => None,
            Mode::Identity => Some("iommu.passthrough=1"),
            Mode::Lazy => Some("iommu.strict=0"),
            Mode::Strict => Some("iommu.strict=1"),
        });
        words.extend(self.words.iter().map(String::as_str));
        words.join(" ")
    }
}

/// QEMU's own cards at the places where ours are, joined by a hub; behind its own IOMMU, if there shall be one.
fn own_devices(iommu: bool) -> Vec<(&'static str, String)> {
    let mut devices = Vec::new();
    if iommu {
        let slot = Unit::Iommu.address().device;
        devices.push(("-device", format!("virtio-iommu-pci,addr={slot:#x}")));
    }
    for (number, unit) in [Unit::Nic0, Unit::Nic1].into_iter().enumerate() {
        let (name, slot) = (unit.name(), unit.address().device);
        devices.push(("-netdev", format!("hubport,id={name},hubid=0")));
        let card = "iommu_platform=on,disable-legacy=on,romfile=";
        let mac = format!("02:10:00:00:00:{:02x}", number + 1);
        devices.push(("-device", format!("virtio-net-pci,netdev={name},mac={mac},addr={slot:#x},{card}")));
    }
    devices
}

impl Vm {
    /// Runs a command of the agent's that is meant to take `expected`; its output.
    ///
    /// # Errors
    /// When it fails, or the guest does not answer.
    pub(super) fn ask(&mut self, command: &str, expected: Duration) -> Result<String, VmError> {
        self.asked += 1;
        let number = self.asked;
        let doing = || format!("running `{}`", shortened(command));
        if let Some(input) = &mut self.input {
            // A guest that is gone is noticed below.
            let _ = writeln!(input, "{number} {command}").and_then(|()| input.flush());
        }
        let mut answer = Answer::to(number);
        let limit = (expected + COMMAND_LIMIT) * self.slowness;
        let until = Instant::now() + limit;
        loop {
            let Some(line) = self.next_line(until, limit, &doing)? else { continue };
            let taken = answer.take(&line).map_err(|source| VmError::Line { source, tail: self.tail() })?;
            if let Some(Complete { text, status }) = taken {
                if status == 0 {
                    return Ok(text);
                }
                let (command, said) = (shortened(command), text);
                return Err(VmError::Command { command, status, said, tail: self.tail() });
            }
        }
    }

    /// What our devices counted; nothing of QEMU's own.
    pub(super) fn snapshot(&self) -> Option<Snapshot> {
        self.platform.as_ref().map(Platform::snapshot)
    }

    /// QEMU's process.
    pub(super) fn qemu_pid(&self) -> u32 {
        self.qemu.id()
    }

    /// CPU time of QEMU so far, in nanoseconds.
    pub(super) fn cpu_ns(&self) -> u64 {
        let pid = i32::try_from(self.qemu.id()).map(nix::unistd::Pid::from_raw);
        let clock = pid.ok().and_then(|pid| nix::time::clock_getcpuclockid(pid).ok());
        // Gone: nothing more is spent.
        let Some(time) = clock.and_then(|clock| clock.now().ok()) else { return 0 };
        Duration::from(time).as_nanos() as u64
    }

    /// Its console until now.
    pub(super) fn console(&self) -> Vec<u8> {
        fs::read(self.folder.path().join(CONSOLE)).unwrap_or_default()
    }

    fn tail(&self) -> Tail {
        Tail::of(&self.folder.path().join(CONSOLE))
    }

    fn wait_until_up(&mut self) -> Result<String, VmError> {
        let doing = || "booting".to_owned();
        let since = Instant::now();
        let (mut size, mut grew) = (0, since);
        loop {
            let now = fs::metadata(self.folder.path().join(CONSOLE)).map_or(0, |file| file.len());
            if now != size {
                (size, grew) = (now, Instant::now());
            }
            let until = (grew + BOOT_SILENCE * self.slowness).min(since + BOOT_LIMIT * self.slowness);
            if let Some(line) = self.next_line(until, since.elapsed(), &doing)?
                && let Greeting::Up(release) = greeting(&line)
            {
                return Ok(release);
            }
            if self.interrupt.requested() {
                return Err(VmError::Interrupted(doing()));
            }
        }
    }

    /// The next line, or nothing for a tick.
    fn next_line(
        &mut self,
        until: Instant,
        limit: Duration,
        doing: &dyn Fn() -> String,
    ) -> Result<Option<String>, VmError> {
        match self.lines.recv_timeout(TICK) {
            Ok(line) => return Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => return Err(self.died(doing())),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(cause) = self.platform.as_ref().and_then(Platform::failure) {
            return Err(VmError::Device(cause));
        }
        if Instant::now() > until {
            return Err(VmError::Silent { doing: doing(), limit, tail: self.tail() });
        }
        Ok(None)
    }

    fn died(&mut self, doing: String) -> VmError {
        let tail = self.tail();
        let stderr = fs::read_to_string(self.folder.path().join("qemu.log")).unwrap_or_default();
        let stderr = stderr.lines().last().unwrap_or("nothing").to_owned();
        // It has closed its output, so it is about to end if it has not.
        let _ = self.qemu.kill();
        match self.qemu.wait() {
            Ok(status) => VmError::Died { doing, status, stderr, tail },
            Err(source) => VmError::Start(source),
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn shortened(command: &str) -> String {
    command.split_whitespace().take(6).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_own_cards_are_where_ours_are() {
        let with = own_devices(true);
        assert_eq!(with.len(), 5);
        assert!(with[0].1.contains("virtio-iommu-pci,addr=0x8"));
        assert!(with[2].1.contains("addr=0x9") && with[4].1.contains("addr=0xa"), "{with:?}");
        assert!(own_devices(false).iter().all(|(_, value)| !value.contains("iommu-pci")));
    }
}
