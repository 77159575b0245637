//! A file system in user space that answers until it is told to be deaf. Mounted nowhere: the mount has a descriptor only.

#![allow(unsafe_code, reason = "mounting has no wrapper in libc")]
#![allow(clippy::print_stderr, reason = "what a test went without belongs into its log")]

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::{Child, Command},
    ptr,
    sync::{Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

const FSCONFIG_SET_STRING: libc::c_long = 1;
const FSCONFIG_CMD_CREATE: libc::c_long = 6;

/// Opcodes of `linux/fuse.h`.
const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const INIT: u32 = 26;

/// Seconds after which the file system ends by itself: until then nobody who waits for it can be killed, so that a test
/// that fails, or is killed itself, would stay.
const LIFE: &str = "30";

/// A file whose every call waits for an answer that never comes, `close` included.
pub(crate) struct DeafFile {
    file: Option<File>,
    /// Has the only descriptor of the device: with it goes the file system.
    keeper: Child,
}

/// One test at a time: a process that one starts has, for a moment, copies of the others' descriptors. It would wait for a
/// deaf file to be closed, and a client that hangs up would be there a little longer.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the system call has just made it, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A mount of `device`'s file system.
fn mount(device: &File) -> io::Result<OwnedFd> {
    // SAFETY: the name outlives the call.
    let context = descriptor(unsafe { libc::syscall(libc::SYS_fsopen, c"fuse".as_ptr(), 1) })?;
    let set = |command: libc::c_long, key: *const libc::c_char, value: *const libc::c_char| {
        // SAFETY: key and value are strings or null, as the command asks for, and outlive the call.
        check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) })
    };
    let number = std::ffi::CString::new(device.as_raw_fd().to_string())?;
    let options: [(&CStr, &CStr); 5] = [
        (c"source", c"deaf"),
        (c"fd", &number),
        (c"rootmode", c"40000"),
        (c"user_id", c"0"),
        (c"group_id", c"0"),
    ];
    for (key, value) in options {
        set(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())?;
    }
    set(FSCONFIG_CMD_CREATE, ptr::null(), ptr::null())?;
    // SAFETY: all arguments are integers.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) })
}

/// `struct fuse_attr` of a directory or a file.
fn attr(node: u64) -> [u8; 88] {
    let mut attr = [0; 88];
    let mode: u32 = if node == 1 { 0o40755 } else { 0o100666 };
    attr[..8].copy_from_slice(&node.to_le_bytes());
    attr[8..16].copy_from_slice(&0x10_0000_u64.to_le_bytes());
    attr[60..64].copy_from_slice(&mode.to_le_bytes());
    attr[64] = 1;
    attr
}

/// Answers what comes before a file is open.
fn answer(device: &mut File) -> io::Result<u32> {
    let mut request = vec![0; 1 << 17];
    let len = device.read(&mut request)?;
    assert!(len >= 40);
    let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
    let (opcode, node) = (word(4), u64::from(word(16)));
    let body = match opcode {
        INIT => {
            let mut body = [0; 64];
            (body[0], body[4], body[22]) = (7, 31, 1);
            body.to_vec()
        }
        // Nodes and their attributes are good for a thousand seconds, so that nobody asks again.
        LOOKUP => {
            let mut body = vec![0; 40];
            (body[0], body[17], body[25]) = (2, 4, 4);
            [body, attr(2).to_vec()].concat()
        }
        GETATTR => [vec![0, 4, 0, 0, 0, 0, 0, 0], vec![0; 8], attr(node).to_vec()].concat(),
        OPEN => vec![0; 16],
        other => panic!("unexpected request {other}"),
    };
    let mut reply = (16 + body.len() as u32).to_le_bytes().to_vec();
    reply.extend([0; 4]);
    reply.extend_from_slice(&request[8..16]);
    device.write_all(&[reply, body].concat())?;
    Ok(opcode)
}

impl DeafFile {
    /// `None`, and said so, where this process may not mount.
    pub(crate) fn new() -> Option<Self> {
        let mounted = File::options().read(true).write(true).open("/dev/fuse").and_then(|device| {
            let mount = mount(&device)?;
            Ok((device, mount))
        });
        let (mut device, mount) = match mounted {
            Ok(mounted) => mounted,
            Err(error) => {
                eprintln!("SKIPPED: no file system in user space: {error}");
                return None;
            }
        };
        // Before the file is open: the new process closes its copies of what it is not to inherit.
        let keeper = Command::new("sleep").arg(LIFE).stdin(device.try_clone().unwrap()).spawn().unwrap();
        let path = format!("/proc/self/fd/{}/file", mount.as_raw_fd());
        let opening = std::thread::spawn(move || File::options().read(true).write(true).open(path));
        while answer(&mut device).unwrap() != OPEN {}
        let file = Some(opening.join().unwrap().unwrap());
        Some(Self { file, keeper })
    }

    pub(crate) fn file(&self) -> &File {
        self.file.as_ref().unwrap()
    }

    /// A thread in the middle of a `write` to `target`, which stays locked: the bytes to be written are this file's.
    pub(crate) fn write_to(&self, target: &File) -> JoinHandle<()> {
        let (target, from) = (target.try_clone().unwrap(), self.file().as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let at = unsafe { libc::mmap(ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_PRIVATE, from, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        let at = at.expose_provenance();
        std::thread::spawn(move || {
            let bytes = ptr::with_exposed_provenance(at);
            // SAFETY: the kernel reads from the mapping above, and answers EFAULT where that has no page.
            let written = unsafe { libc::write(target.as_raw_fd(), bytes, 4096) };
            assert_eq!(written, -1, "it fails when the file system goes");
        })
    }
}

impl Drop for DeafFile {
    fn drop(&mut self) {
        // Releases everybody who waits, and so this file's own `close` as well.
        self.keeper.kill().unwrap();
        self.keeper.wait().unwrap();
        self.file = None;
    }
}
