//! One boot of the lab, from power-on to power-off.

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::{
    accel::Accel,
    initramfs,
    job::{EXIT_CODE, Job},
    machine::Machine,
    prepare::Lab,
    program::{Bundle, ProgramError},
    wire::{Frame, GOODBYE, INTERRUPT, WireError},
};

/// Name of the console's log in the session's folder.
pub const CONSOLE_FILE: &str = "console.log";
/// Name of the console's log of a boot that was repeated.
const FIRST_CONSOLE_FILE: &str = "console.first.log";
/// Name of the folder, in the session's folder, of what the command left behind.
pub const COLLECTED: &str = "out";

/// How long the kernel may print nothing before our program speaks.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// How long it may be silent afterwards; it speaks once a second.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// How long an interrupted command may take to end.
const INTERRUPT_LIMIT: Duration = Duration::from_secs(20);
/// How long QEMU may take to end after its guest has.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked whether the user interrupted.
const TICK: Duration = Duration::from_millis(100);
/// Lines of the console that an error shows.
const TAIL_LINES: usize = 12;

/// What happens meanwhile.
#[derive(Debug)]
pub enum Event<'a> {
    /// The guest is up, so many milliseconds after its kernel began.
    Up {
        /// Milliseconds.
        up_ms: u64,
    },
    /// The command printed this to standard error.
    Stderr(&'a [u8]),
    /// It is booted once more, for this reason.
    Again(&'a str),
    /// Nothing happened for a tick, or the guest said that it is alive.
    Tick,
}

/// How the command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Where the files are that it left.
    pub files: PathBuf,
    /// The console's log.
    pub console: PathBuf,
}

/// The lab broke.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The program cannot be copied into it.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A file of the session.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program to copy is not known.
    #[error("where this program itself is cannot be found out: {0}")]
    Myself(io::Error),
    /// QEMU does not start.
    #[error("QEMU cannot be started: {0}")]
    Start(io::Error),
    /// The line to the guest.
    #[error("{source}{tail}")]
    Wire {
        /// What is wrong with it.
        source: WireError,
        /// End of the console.
        tail: Tail,
    },
    /// The guest did not come up, or hangs.
    #[error("the lab gave no sign of life for {} s while {doing}{tail}", limit.as_secs())]
    Silent {
        /// What was waited for.
        doing: &'static str,
        /// How long.
        limit: Duration,
        /// End of the console.
        tail: Tail,
    },
    /// QEMU ended before the command did.
    #[error("QEMU ended ({status}) while {doing}: {stderr}{tail}")]
    Died {
        /// What was waited for.
        doing: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
        /// End of the console.
        tail: Tail,
    },
    /// The guest's first process failed.
    #[error("the lab's guest failed: {cause}{tail}")]
    Guest {
        /// Why.
        cause: String,
        /// End of the console.
        tail: Tail,
    },
    /// The user did not want to wait.
    #[error("interrupted while {doing}; nothing was measured")]
    Interrupted {
        /// What was waited for.
        doing: &'static str,
    },
}

/// The end of the guest's console, for an error's text.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tail(String);

impl Tail {
    /// Of the console that this file holds; empty where there is none.
    pub fn of(console: &Path) -> Self {
        const BYTES: u64 = 8192;
        let read = || -> io::Result<String> {
            let mut file = fs::File::open(console)?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(BYTES)))?;
            let mut bytes = Vec::new();
            // The guest may be writing more.
            file.take(BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        // No console, no tail.
        let text = read().unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        Self(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n  "))
    }
}

impl std::fmt::Display for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "; its console ended with\n  {}", self.0) }
    }
}

/// Boots `lab` as `machine`, runs `job` with `program` inside, and powers off. Everything is kept in `folder`, which must
/// exist. `interrupted` is asked now and then; `event` is told what happens. A boot that an error of QEMU's translator has
/// spoilt is repeated, once.
///
/// # Errors
/// When the lab breaks, hangs, or the user interrupts before the command has begun. A command that fails is no error
/// here: see [`Ended::code`].
pub fn run(
    lab: &Lab,
    machine: &Machine,
    program: &Path,
    job: &Job,
    folder: &Path,
    interrupted: &dyn Fn() -> bool,
    event: &mut dyn FnMut(Event<'_>),
) -> Result<Ended, SessionError> {
    let first = boot(lab, machine, program, job, folder, interrupted, event);
    let emulated = matches!(machine.accel, Accel::Tcg { .. });
    if emulated && !matches!(&first, Ok(Ended { code: 0, .. })) && mistranslated(&folder.join(CONSOLE_FILE)) {
        event(Event::Again(
            "QEMU's translator ran a breakpoint of the kernel after it had gone (a race of the emulator)",
        ));
        forget(folder).map_err(|source| SessionError::Io { path: folder.to_owned(), source })?;
        return boot(lab, machine, program, job, folder, interrupted, event);
    }
    first
}

/// Whether the guest's kernel met a breakpoint where it had put none: see docs/lab.md.
fn mistranslated(console: &Path) -> bool {
    fs::read(console).is_ok_and(|text| String::from_utf8_lossy(&text).contains("Oops: int3:"))
}

/// Keeps the console of a boot that does not count, and nothing else.
fn forget(folder: &Path) -> io::Result<()> {
    fs::rename(folder.join(CONSOLE_FILE), folder.join(FIRST_CONSOLE_FILE))?;
    fs::remove_dir_all(folder.join(COLLECTED))
}

fn boot(
    lab: &Lab,
    machine: &Machine,
    program: &Path,
    job: &Job,
    folder: &Path,
    interrupted: &dyn Fn() -> bool,
    event: &mut dyn FnMut(Event<'_>),
) -> Result<Ended, SessionError> {
    let initramfs = folder.join("initramfs.cpio");
    let failed = |path: &Path, source| SessionError::Io { path: path.to_owned(), source };
    initramfs::write(&initramfs, lab, &Bundle::of(program)?, job)
        .map_err(|source| failed(&initramfs, source))?;
    let files = folder.join(COLLECTED);
    fs::create_dir_all(&files).map_err(|source| failed(&files, source))?;
    let console = folder.join(CONSOLE_FILE);
    let disk = folder.join("disk.img");
    write_disk(&disk).map_err(|source| failed(&disk, source))?;
    let qemu_log = folder.join("qemu.log");
    let mut session = Session::start(lab, machine, &initramfs, console, qemu_log, &disk)?;
    let outcome = session.listen(files, interrupted, event);
    // Best effort: they are only large.
    let _ = fs::remove_file(&initramfs);
    let _ = fs::remove_file(&disk);
    outcome
}

/// The disk as it is at first: a known beginning, and nothing, which takes no room.
fn write_disk(path: &Path) -> io::Result<()> {
    fs::write(path, crate::machine::disk_pattern())?;
    fs::File::options().write(true).open(path)?.set_len(crate::machine::DISK_BYTES)
}

/// A QEMU that runs; killed when dropped.
struct Session {
    qemu: Child,
    input: Option<ChildStdin>,
    frames: Receiver<Result<Frame, WireError>>,
    console: PathBuf,
    complaints: PathBuf,
}

impl Session {
    fn start(
        lab: &Lab,
        machine: &Machine,
        initramfs: &Path,
        console: PathBuf,
        complaints: PathBuf,
        disk: &Path,
    ) -> Result<Self, SessionError> {
        let log = fs::File::create(&complaints)
            .map_err(|source| SessionError::Io { path: complaints.clone(), source })?;
        let mut command = machine.command(lab, initramfs, &console, disk);
        // Its own process group: the terminal's Ctrl-C is for us, who pass it on in our way.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).process_group(0);
        tracing::info!(?command, "starting QEMU");
        let mut qemu = die_with_us(&mut command).spawn().map_err(SessionError::Start)?;
        let input = qemu.stdin.take();
        let (sender, frames) = channel();
        if let Some(output) = qemu.stdout.take() {
            thread::spawn(move || pump(io::BufReader::new(output), &sender));
        }
        Ok(Self { qemu, input, frames, console, complaints })
    }

    fn listen(
        &mut self,
        files: PathBuf,
        interrupted: &dyn Fn() -> bool,
        event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Ended, SessionError> {
        let mut collector = Collector { folder: files, file: None };
        let (mut stdout, mut asked_at, mut printed) = (Vec::new(), None, 0);
        let (mut doing, mut limit, mut heard_at) = ("booting", BOOT_LIMIT, Instant::now());
        loop {
            let frame = match self.frames.recv_timeout(TICK) {
                Ok(frame) => frame.map_err(|source| SessionError::Wire { source, tail: self.tail() })?,
                Err(RecvTimeoutError::Disconnected) => return Err(self.died(doing)),
                Err(RecvTimeoutError::Timeout) => {
                    event(Event::Tick);
                    if interrupted() && asked_at.is_none() {
                        if doing == "booting" {
                            return Err(SessionError::Interrupted { doing });
                        }
                        self.tell(INTERRUPT);
                        asked_at = Some(Instant::now());
                    }
                    if asked_at.is_some_and(|asked: Instant| asked.elapsed() > INTERRUPT_LIMIT) {
                        return Err(SessionError::Interrupted { doing });
                    }
                    let length = fs::metadata(&self.console).map_or(0, |console| console.len());
                    if std::mem::replace(&mut printed, length) != length {
                        // A slow machine boots slowly: it is not silent while its kernel prints.
                        heard_at = Instant::now();
                    }
                    if heard_at.elapsed() > limit {
                        return Err(SessionError::Silent { doing, limit, tail: self.tail() });
                    }
                    continue;
                }
            };
            heard_at = Instant::now();
            match frame {
                Frame::Hello { up_ms } => {
                    (doing, limit) = ("running the command", SILENCE_LIMIT);
                    event(Event::Up { up_ms });
                }
                Frame::Alive => event(Event::Tick),
                Frame::Stdout(bytes) => stdout.extend(bytes),
                Frame::Stderr(bytes) => event(Event::Stderr(&bytes)),
                Frame::File(path) => collector.begin(&path)?,
                Frame::Data(bytes) => collector.append(&bytes)?,
                Frame::Exit(code) => {
                    self.tell(GOODBYE);
                    self.wait_for_end();
                    return Ok(Ended {
                        code,
                        stdout,
                        files: collector.folder,
                        console: self.console.clone(),
                    });
                }
                Frame::Broken(cause) => return Err(SessionError::Guest { cause, tail: self.tail() }),
            }
        }
    }

    fn tell(&mut self, what: u8) {
        if let Some(input) = &mut self.input {
            // A guest that is gone needs no telling; the loop notices.
            let _ = input.write_all(&[what]).and_then(|()| input.flush());
        }
    }

    /// The guest powers off by itself; one that does not is killed by the drop.
    fn wait_for_end(&mut self) {
        let since = Instant::now();
        while since.elapsed() < END_LIMIT {
            match self.qemu.try_wait() {
                Ok(Some(status)) if status.code() == Some(EXIT_CODE) => return,
                Ok(Some(status)) => return tracing::warn!(%status, "the lab ended in another way than asked"),
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
        tracing::warn!("the lab does not power off; it is killed");
    }

    fn died(&mut self, doing: &'static str) -> SessionError {
        let tail = self.tail();
        let stderr = fs::read_to_string(&self.complaints).unwrap_or_default();
        let stderr = stderr.lines().last().unwrap_or("it said nothing").to_owned();
        match self.qemu.wait() {
            Ok(status) => SessionError::Died { doing, status, stderr, tail },
            Err(source) => SessionError::Start(source),
        }
    }

    fn tail(&self) -> Tail {
        Tail::of(&self.console)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Passes frames on until the line ends or breaks.
fn pump(mut line: impl Read, frames: &Sender<Result<Frame, WireError>>) {
    loop {
        let frame = match Frame::read(&mut line) {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let last = frame.is_err();
        if frames.send(frame).is_err() || last {
            return;
        }
    }
}

/// Has a child killed when the thread that starts it ends, and so when this process does, however that happens.
#[allow(unsafe_code, reason = "what happens between fork and exec is the caller's duty")]
pub fn die_with_us(command: &mut std::process::Command) -> &mut std::process::Command {
    let kill = || nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(io::Error::from);
    // SAFETY: the closure makes one system call and neither allocates nor locks, as is demanded after a fork.
    unsafe { command.pre_exec(kill) }
}

/// Puts files where they belong.
struct Collector {
    folder: PathBuf,
    file: Option<(PathBuf, fs::File)>,
}

impl Collector {
    /// The path has been checked to stay inside.
    fn begin(&mut self, path: &Path) -> Result<(), SessionError> {
        let place = self.folder.join(path);
        let failed = |source| SessionError::Io { path: place.clone(), source };
        if let Some(above) = place.parent() {
            fs::create_dir_all(above).map_err(failed)?;
        }
        let file = fs::File::create(&place).map_err(failed)?;
        self.file = Some((place, file));
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        file.write_all(bytes).map_err(|source| SessionError::Io { path: path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_the_last_lines_of_the_console() {
        let folder = tempfile::tempdir().unwrap();
        let console = folder.path().join(CONSOLE_FILE);
        let lines: String = (0..100).map(|n| format!("line {n}\r\n\r\n")).collect();
        fs::write(&console, lines).unwrap();
        let shown = Tail::of(&console).to_string();
        assert!(shown.contains("line 88\n") && shown.ends_with("line 99"), "{shown}");
        assert!(!shown.contains("line 87"), "{shown}");
        assert_eq!(Tail::of(Path::new("/nonexistent")).to_string(), "");
    }

    #[test]
    fn a_breakpoint_that_nobody_put_spoils_a_boot() {
        let folder = tempfile::tempdir().unwrap();
        let console = folder.path().join(CONSOLE_FILE);
        assert!(!mistranslated(&console), "no console");
        fs::write(&console, "[    1.0] Oops: general protection fault\n").unwrap();
        assert!(!mistranslated(&console));
        fs::write(&console, b"\xff[   12.3] Oops: int3: 0000 [#1] PREEMPT SMP\r\n").unwrap();
        assert!(mistranslated(&console));
        fs::create_dir(folder.path().join(COLLECTED)).unwrap();
        forget(folder.path()).unwrap();
        let left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [FIRST_CONSOLE_FILE]);
    }

    #[test]
    fn files_are_collected_in_folders() {
        let folder = tempfile::tempdir().unwrap();
        let mut collector = Collector { folder: folder.path().to_owned(), file: None };
        collector.append(b"nowhere").unwrap();
        collector.begin(Path::new("a/b.hdr")).unwrap();
        collector.append(b"12").unwrap();
        collector.append(b"34").unwrap();
        drop(collector);
        assert_eq!(fs::read(folder.path().join("a/b.hdr")).unwrap(), b"1234");
    }
}
