//! What is to be done inside.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// One command of the program itself, run inside the lab.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its arguments, without the program's name.
    pub args: Vec<String>,
    /// Environment variables it gets besides PATH and HOME.
    pub env: BTreeMap<String, String>,
    /// Files it finds in [`JOB_FOLDER`], by plain name.
    #[serde(skip)]
    pub files: BTreeMap<String, Vec<u8>>,
    /// Files and folders that are copied in: place inside, place here. Links in folders stay links.
    #[serde(skip)]
    pub places: BTreeMap<PathBuf, PathBuf>,
}

/// Environment variable that is set inside the lab; it says what the lab is.
pub const INSIDE: &str = "IOMMU_BENCH_INSIDE_LAB";
/// Where the job's files are.
pub const JOB_FOLDER: &str = "/job";
/// What the command leaves here is brought out.
pub const OUT_FOLDER: &str = "/out";
/// The command that the guest's first process is started with.
pub const INIT_COMMAND: &str = "lab-init";
/// Name of the port on both sides.
pub(crate) const PORT: &str = "iommu-bench.lab";
/// Where the job itself is.
pub(crate) const JOB_FILE: &str = "job.json";
/// Where the modules are, named in the order in which they are to be loaded.
pub(crate) const MODULE_FOLDER: &str = "/modules";
/// I/O port of QEMU's `isa-debug-exit`; writing `n` ends QEMU with code `2n + 1`.
pub(crate) const EXIT_PORT: u16 = 0xf4;
/// What the guest writes there, and the code QEMU ends with.
pub(crate) const EXIT_VALUE: u8 = 0x10;
pub(crate) const EXIT_CODE: i32 = 2 * EXIT_VALUE as i32 + 1;

/// What the lab is, if this process runs inside it.
pub fn inside() -> Option<String> {
    std::env::var(INSIDE).ok()
}
