//! Inside: the guest's first process. It mounts what a program expects, loads the modules, runs the job, sends out what
//! the job says and leaves, and powers off.

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI32, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use nix::{
    sys::{
        reboot::{RebootMode, reboot},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use thiserror::Error;

mod system;

use crate::{
    initramfs::PROGRAM,
    job::{EXIT_PORT, EXIT_VALUE, INIT_COMMAND, INSIDE, JOB_FILE, JOB_FOLDER, Job, OUT_FOLDER},
    wire::{Frame, GOODBYE, INTERRUPT, MAX_PAYLOAD},
};
use system::SystemError;

/// How often the host is told that the guest is alive.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the host may take to read the last frame.
const GOODBYE_LIMIT: Duration = Duration::from_secs(20);

/// The guest cannot do its work.
#[derive(Debug, Error)]
enum GuestError {
    #[error(transparent)]
    System(#[from] SystemError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("the job is not readable: {0}")]
    Job(#[from] serde_json::Error),
    #[error("the command cannot be started: {0}")]
    Start(io::Error),
    #[error("the line to the host failed: {0}")]
    Line(io::Error),
}

/// The line to the host, shared by threads; a frame is written whole.
type Line = Arc<Mutex<fs::File>>;

/// Does the job and powers off; never returns. What goes wrong before the line to the host is open is printed to the
/// console.
pub fn main() -> ! {
    if let Err(error) = work() {
        // The console is the process's standard output; there is nobody else to tell.
        let _ = writeln!(io::stderr(), "lab: {error}");
    }
    power_off()
}

/// Whether this process is the guest's first; one that is the first of a container is not.
pub fn is_first_process() -> bool {
    std::process::id() == 1 && std::env::args().nth(1).is_some_and(|command| command == INIT_COMMAND)
}

fn work() -> Result<(), GuestError> {
    system::mount_all()?;
    let line: Line = Arc::new(Mutex::new(system::open_port()?));
    say(&line, &Frame::Hello { up_ms: system::up_ms() })?;
    let host = Host::listen(&line)?;
    let last = serve(&line, &host).unwrap_or_else(|error| Frame::Broken(error.to_string()));
    say(&line, &last)?;
    // The host may be gone; then nobody misses the frame.
    let _ = host.goodbye.recv_timeout(GOODBYE_LIMIT);
    Ok(())
}

/// Does the job; returns the last frame.
fn serve(line: &Line, host: &Host) -> Result<Frame, GuestError> {
    heartbeat(Arc::clone(line));
    system::load_modules()?;
    // Open until the machine is off. A kernel without has none of the trouble it saves.
    let _event = system::idle_event();
    let path = Path::new(JOB_FOLDER).join(JOB_FILE);
    let job: Job =
        serde_json::from_slice(&fs::read(&path).map_err(|source| GuestError::Io { path, source })?)?;
    let mut command = start(&job)?;
    host.command.store(command.id() as i32, Ordering::Relaxed);
    let readers = [
        command.stdout.take().map(|pipe| forward(pipe, Arc::clone(line), Frame::Stdout)),
        command.stderr.take().map(|pipe| forward(pipe, Arc::clone(line), Frame::Stderr)),
    ];
    let status = command.wait().map_err(GuestError::Start)?;
    for reader in readers.into_iter().flatten() {
        // A reader that panicked has said so on the console.
        let _ = reader.join();
    }
    send_files(line, Path::new(OUT_FOLDER))?;
    // As shells count a death by signal.
    Ok(Frame::Exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())))
}

fn start(job: &Job) -> Result<Child, GuestError> {
    Command::new(PROGRAM)
        .args(&job.args)
        .env(INSIDE, "an emulated host")
        .env("PATH", "/bin")
        .env("HOME", "/root")
        .envs(&job.env)
        .current_dir("/root")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(GuestError::Start)
}

fn say(line: &Line, frame: &Frame) -> Result<(), GuestError> {
    let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
    frame.write(&mut *line).map_err(GuestError::Line)
}

fn heartbeat(line: Line) {
    thread::spawn(move || {
        while say(&line, &Frame::Alive).is_ok() {
            thread::sleep(HEARTBEAT);
        }
    });
}

fn forward(
    mut pipe: impl Read + Send + 'static,
    line: Line,
    frame: fn(Vec<u8>) -> Frame,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; MAX_PAYLOAD];
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            if say(&line, &frame(buffer[..n].to_vec())).is_err() {
                return;
            }
        }
    })
}

/// What the host says, a byte at a time.
struct Host {
    /// Process that is interrupted when the host asks for it; 0 before it is started.
    command: Arc<AtomicI32>,
    /// The last frame has been read.
    goodbye: Receiver<()>,
}

impl Host {
    fn listen(line: &Line) -> Result<Self, GuestError> {
        let guard = line.lock().unwrap_or_else(PoisonError::into_inner);
        let mut port = guard.try_clone().map_err(GuestError::Line)?;
        drop(guard);
        let (command, (sender, goodbye)) = (Arc::new(AtomicI32::new(0)), channel());
        let process = Arc::clone(&command);
        thread::spawn(move || {
            let mut byte = [0];
            while let Ok(n) = port.read(&mut byte) {
                let process = process.load(Ordering::Relaxed);
                match (n, byte[0]) {
                    // The host has not opened its side, or closed it.
                    (0, _) => thread::sleep(HEARTBEAT),
                    // The command gets what Ctrl-C would send; one that has ended needs none.
                    (_, INTERRUPT) if process != 0 => drop(kill(Pid::from_raw(process), Signal::SIGINT)),
                    (_, GOODBYE) => {
                        // Nobody waits when the guest is already on its way out.
                        let _ = sender.send(());
                        return;
                    }
                    _ => (),
                }
            }
        });
        Ok(Self { command, goodbye })
    }
}

/// Sends every regular file below `folder`.
fn send_files(line: &Line, folder: &Path) -> Result<(), GuestError> {
    let mut folders = vec![folder.to_owned()];
    while let Some(inner) = folders.pop() {
        let failed = |source| GuestError::Io { path: inner.clone(), source };
        for entry in fs::read_dir(&inner).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                send_file(line, folder, &entry.path())?;
            }
        }
    }
    Ok(())
}

fn send_file(line: &Line, folder: &Path, path: &Path) -> Result<(), GuestError> {
    let content = fs::read(path).map_err(|source| GuestError::Io { path: path.to_owned(), source })?;
    let name = path.strip_prefix(folder).unwrap_or(path).to_owned();
    say(line, &Frame::File(name))?;
    content.chunks(MAX_PAYLOAD).try_for_each(|chunk| say(line, &Frame::Data(chunk.to_vec())))
}

fn power_off() -> ! {
    nix::unistd::sync();
    let end = || -> io::Result<()> {
        let mut ports = fs::File::options().write(true).open("/dev/port")?;
        ports.seek(SeekFrom::Start(u64::from(EXIT_PORT)))?;
        ports.write_all(&[EXIT_VALUE])
    };
    if let Err(error) = end() {
        let _ = writeln!(io::stderr(), "lab: /dev/port: {error}; powering off the long way");
    }
    // Reached only when QEMU has no such port.
    let _ = reboot(RebootMode::RB_POWER_OFF);
    loop {
        thread::park();
    }
}
