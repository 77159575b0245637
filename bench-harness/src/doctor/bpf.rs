//! eBPF: each type of program is really loaded, and where that may be refused on its own, attached.

#![allow(unsafe_code, reason = "bpf(2) has no safe wrapper that loads two instructions of any type")]

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use aya_obj::btf::{Btf, BtfKind};

use super::{Check, Finding};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "btf",
        enables: "typed tracepoints and functions, offsets of kernel structures",
        look: btf,
    },
    Check { name: "bpf_tp_btf", enables: "the cheapest probes on tracepoints (160 ns a hit)", look: tp_btf },
    Check { name: "bpf_fentry", enables: "latency of kernel functions such as iommu_map", look: fentry },
    Check {
        name: "bpf_tracepoint",
        enables: "probes on tracepoints where BTF is missing (230 ns a hit)",
        look: tracepoint,
    },
    Check { name: "bpf_raw_tp", enables: "tracepoints' raw arguments", look: raw_tracepoint },
    Check {
        name: "bpf_kprobe",
        enables: "kernel functions where fentry is refused; the same type serves uprobes",
        look: kprobe,
    },
    Check { name: "bpf_perf_event", enables: "eBPF at samples; profiles here do without", look: perf_event },
];

const BTF: &str = "/sys/kernel/btf/vmlinux";
const LOAD: &str = "run as root, or with CAP_BPF and CAP_PERFMON";
const FENTRY: &str =
    "a kernel with CONFIG_DYNAMIC_FTRACE and writable text, as distributions build it; the lab has one";

/// `BPF_PROG_LOAD`'s part of `bpf_attr`, up to the last field used here. The kernel takes the rest for zero.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
    btf_fd: u32,
    function_info_bytes: u32,
    function_info: u64,
    function_infos: u32,
    line_info_bytes: u32,
    line_info: u64,
    line_infos: u32,
    attach_btf_id: u32,
}

/// `BPF_RAW_TRACEPOINT_OPEN`'s part.
#[repr(C)]
#[derive(Default)]
struct RawTracepointOpen {
    name: u64,
    program: u32,
    padding: u32,
}

const PROG_LOAD: libc::c_long = 5;
const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const KPROBE: u32 = 2;
const TRACEPOINT: u32 = 5;
const PERF_EVENT: u32 = 7;
const RAW_TRACEPOINT: u32 = 17;
const TRACING: u32 = 26;
const TRACE_RAW_TP: u32 = 23;
const TRACE_FENTRY: u32 = 24;

/// A tracepoint and a function that every kernel with BTF has and that hardly ever run.
const QUIET_TRACEPOINT: &str = "sched_process_exec";
const QUIET_FUNCTION: &str = "bpf_fentry_test1";

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: `attributes` is a repr(C) prefix of bpf_attr for this command, alive during the call, and its true size is
    // passed; both commands only read it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    match i32::try_from(fd) {
        // SAFETY: a descriptor that the kernel has just given to us and nobody else has.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Loads `return 0` as a program of this type.
fn load(kind: u32, attach_type: u32, attach_btf_id: u32) -> io::Result<OwnedFd> {
    // mov r0, 0; exit
    let code: [u64; 2] = [0xb7, 0x95];
    let license = CString::new("GPL").unwrap_or_default();
    let attributes = Load {
        kind,
        instructions: 2,
        code: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        attach_type,
        attach_btf_id,
        ..Load::default()
    };
    bpf(PROG_LOAD, &attributes)
}

/// Attaches it; `name` for a raw tracepoint, none for what was chosen by BTF id. Detached when dropped.
fn attach(program: &OwnedFd, name: Option<&str>) -> io::Result<OwnedFd> {
    let name = name.map(CString::new).transpose().map_err(io::Error::other)?;
    let name = name.as_ref().map_or(0, |name| name.as_ptr() as u64);
    let attributes = RawTracepointOpen { name, program: program.as_raw_fd() as u32, padding: 0 };
    bpf(RAW_TRACEPOINT_OPEN, &attributes)
}

fn refused(what: &str, error: &io::Error) -> Finding {
    Finding::no(format!("{what}: {error}"), LOAD)
}

fn btf() -> Finding {
    match fs::metadata(BTF) {
        Ok(file) => Finding::yes(format!("{BTF}, {} MiB", file.len() >> 20)),
        Err(error) => Finding::no(format!("{BTF}: {error}"), "a kernel with CONFIG_DEBUG_INFO_BTF"),
    }
}

fn type_id(name: &str, kind: BtfKind) -> Result<u32, Finding> {
    let missing = |error: String| Finding::no(error, "a kernel with CONFIG_DEBUG_INFO_BTF");
    let types = Btf::from_sys_fs().map_err(|error| missing(error.to_string()))?;
    types.id_by_type_name_kind(name, kind).map_err(|error| missing(error.to_string()))
}

fn tp_btf() -> Finding {
    let id = match type_id(&format!("btf_trace_{QUIET_TRACEPOINT}"), BtfKind::Typedef) {
        Ok(id) => id,
        Err(finding) => return finding,
    };
    match load(TRACING, TRACE_RAW_TP, id).map(|program| attach(&program, None)) {
        Ok(Ok(_)) => Finding::yes("loaded and attached"),
        Ok(Err(error)) => refused("loaded, attaching refused", &error),
        Err(error) => refused("loading refused", &error),
    }
}

fn fentry() -> Finding {
    let id = match type_id(QUIET_FUNCTION, BtfKind::Func) {
        Ok(id) => id,
        Err(finding) => return finding,
    };
    let missing = "latencies of kernel functions are n/a";
    match load(TRACING, TRACE_FENTRY, id).map(|program| attach(&program, None)) {
        Ok(Ok(_)) => Finding::yes("loaded and attached"),
        Ok(Err(error)) => {
            Finding::no(format!("loaded, attaching to {QUIET_FUNCTION} refused: {error}; {missing}"), FENTRY)
        }
        // Whoever may load the simplest program is not short of rights: this kernel refuses the type.
        Err(error) if load(RAW_TRACEPOINT, 0, 0).is_ok() => {
            Finding::no(format!("this kernel refuses the type: {error}; {missing}"), FENTRY)
        }
        Err(error) => refused("loading refused", &error),
    }
}

fn tracepoint() -> Finding {
    match load(TRACEPOINT, 0, 0) {
        Ok(_) => Finding::yes("loaded; attaching also takes tracefs"),
        Err(error) => refused("loading refused", &error),
    }
}

fn raw_tracepoint() -> Finding {
    match load(RAW_TRACEPOINT, 0, 0).map(|program| attach(&program, Some(QUIET_TRACEPOINT))) {
        Ok(Ok(_)) => Finding::yes("loaded and attached"),
        Ok(Err(error)) => refused("loaded, attaching refused", &error),
        Err(error) => refused("loading refused", &error),
    }
}

fn kprobe() -> Finding {
    if let Err(error) = load(KPROBE, 0, 0) {
        return refused("loading refused", &error);
    }
    if fs::metadata("/sys/bus/event_source/devices/kprobe").is_err() {
        return Finding::limited(
            "loaded, but the kernel has no kprobes to attach it to; good for uprobes",
            "a kernel with CONFIG_KPROBE_EVENTS, as distributions build it; the lab has one",
        );
    }
    Finding::yes("loaded, and the kernel has kprobes")
}

fn perf_event() -> Finding {
    match load(PERF_EVENT, 0, 0) {
        Ok(_) => Finding::yes("loaded"),
        Err(error) => refused("loading refused", &error),
    }
}
