//! Builds the eBPF objects, reproducibly, and compares them with the committed ones.
//!
//! What a build depends on is pinned: sources by the eBPF crate's lock file, tools by `probes/object/toolchain.toml`. What
//! it must not depend on is taken out: the folders' names are mapped to fixed ones, the hash that cargo makes of a package's
//! folder and rustc puts into symbols is replaced by the crate's name ([`compiler`]), debug sections are stripped (BTF
//! stays). So the same tools give the same bytes wherever the sources lie.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::compiler;

/// The objects, by the name of their binary.
const OBJECTS: [&str; 2] = ["events", "sites"];
const TARGET: &str = "bpfel-unknown-none";
/// Crates whose folder cargo would hash: ours, and those of the core library.
const RENAMED: [&str; 6] =
    ["iommu_probes_common", "events", "sites", "core", "compiler_builtins", "rustc_std_workspace_core"];

/// Why the objects could not be built, or are not what is committed.
#[derive(Debug, Error)]
pub(crate) enum ProbesError {
    #[error("cannot run {program}: {source}")]
    Run { program: String, source: io::Error },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path} cannot be read: {source}")]
    Recorded { path: PathBuf, source: toml::de::Error },
    #[error("the tools cannot be recorded: {0}")]
    Record(#[from] toml::ser::Error),
    #[error("the eBPF crate does not build; see above")]
    Build,
    #[error("llvm-objcopy failed: {0}")]
    Strip(String),
    #[error("no {0}: run scripts/setup-test-deps (it says what it installs)")]
    NoTool(String),
    #[error("{} is not what its sources build: run `cargo xtask probes` and commit it", .0.display())]
    Differs(PathBuf),
}

/// The tools that made the committed objects.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Tools {
    rustc: String,
    bpf_linker: String,
    llvm: String,
}

/// Where the tools are.
struct Toolchain {
    sysroot: PathBuf,
    linker: PathBuf,
    objcopy: PathBuf,
    versions: Tools,
}

/// Builds the objects and writes them, or with `check` compares them.
pub(crate) fn run(root: &Path, check: bool) -> Result<(), ProbesError> {
    let objects = root.join("probes/object");
    let recorded = objects.join("toolchain.toml");
    let toolchain = match Toolchain::find() {
        Err(ProbesError::NoTool(tool)) if check => {
            return not_run(&format!("no {tool}: scripts/setup-test-deps installs it"));
        }
        found => found?,
    };
    if check {
        let text = read(&recorded)?;
        let made_by: Tools = toml::from_str(&String::from_utf8_lossy(&text))
            .map_err(|source| ProbesError::Recorded { path: recorded.clone(), source })?;
        if made_by != toolchain.versions {
            return not_run(&format!("they were built by {made_by:?}, here are {:?}", toolchain.versions));
        }
    }
    let built = build(root, &toolchain)?;
    for object in OBJECTS {
        let (from, to) = (built.join(object), objects.join(format!("{object}.bpf.o")));
        let bytes = strip(&toolchain, &from)?;
        if !check {
            write(&to, &bytes)?;
            println!("{}: {} bytes", to.display(), bytes.len());
        } else if read(&to)? != bytes {
            return Err(ProbesError::Differs(to));
        } else {
            println!("{}: the same {} bytes", to.display(), bytes.len());
        }
    }
    if !check {
        let text = format!(
            "# Made the objects beside it; written by `cargo xtask probes`.\n{}",
            toml::to_string(&toolchain.versions)?
        );
        write(&recorded, text.as_bytes())?;
    }
    Ok(())
}

impl Toolchain {
    /// The first toolchain that has the core library's source, a linker and LLVM's tools.
    fn find() -> Result<Self, ProbesError> {
        let asked = env::var_os("EBPF_RUSTC").map(PathBuf::from);
        let compilers = asked.into_iter().chain(["/usr/bin/rustc", "rustc"].map(PathBuf::from));
        let sysroot = compilers
            .filter_map(|rustc| first_line(Command::new(rustc).args(["--print", "sysroot"])))
            .map(PathBuf::from)
            .find(|root| {
                root.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
                    && root.join("bin/cargo").exists()
            })
            .ok_or_else(|| ProbesError::NoTool("Rust toolchain with the core library's source".to_owned()))?;
        let home = env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
        let linker = home
            .map(|home| home.join("bin/bpf-linker"))
            .filter(|linker| linker.exists())
            .unwrap_or_else(|| PathBuf::from("bpf-linker"));
        let llvm = PathBuf::from(env::var_os("LLVM_PREFIX").unwrap_or_else(|| "/usr/lib/llvm-22".into()));
        let objcopy = llvm.join("bin/llvm-objcopy");
        let version = |tool: &Path| {
            first_line(Command::new(tool).arg("--version"))
                .ok_or_else(|| ProbesError::NoTool(tool.display().to_string()))
        };
        let versions = Tools {
            rustc: version(&sysroot.join("bin/rustc"))?,
            bpf_linker: version(&linker)?,
            llvm: version(&llvm.join("bin/llvm-config"))?,
        };
        Ok(Self { sysroot, linker, objcopy, versions })
    }
}

fn build(root: &Path, toolchain: &Toolchain) -> Result<PathBuf, ProbesError> {
    let target_dir = root.join("target/ebpf");
    let path = env::join_paths(
        toolchain
            .linker
            .parent()
            .map(Path::to_path_buf)
            .into_iter()
            .chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
    )
    .unwrap_or_default();
    let mut cargo = Command::new(toolchain.sysroot.join("bin/cargo"));
    cargo
        .args(["build", "--release", "--locked", "-Zbuild-std=core", "--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .current_dir(root.join("probes/ebpf"))
        .env("RUSTC", toolchain.sysroot.join("bin/rustc"))
        // `-Zbuild-std` on a stable toolchain.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(root, toolchain).join("\x1f"))
        .env("PATH", path);
    compiler::rename(&mut cargo, RENAMED)
        .map_err(|source| ProbesError::Run { program: "myself".to_owned(), source })?;
    for inherited in ["RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN", "CARGO", "RUSTFLAGS", "LD_LIBRARY_PATH"]
    {
        cargo.env_remove(inherited);
    }
    let status = cargo.status().map_err(|source| ProbesError::Run { program: "cargo".to_owned(), source })?;
    if status.success() { Ok(target_dir.join(TARGET).join("release")) } else { Err(ProbesError::Build) }
}

fn flags(root: &Path, toolchain: &Toolchain) -> Vec<String> {
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags = vec![
        // Which registers a uprobe's arguments are in; the objects are for this architecture.
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        remap(root, "/iommu-bench"),
        remap(&toolchain.sysroot.join("lib/rustlib/src/rust"), "/rust"),
    ];
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let registries = home.and_then(|home| fs::read_dir(home.join("registry/src")).ok());
    for registry in registries.into_iter().flatten().flatten() {
        flags.push(remap(&registry.path(), "/registry"));
    }
    flags
}

/// Takes the debug sections out, in a copy.
fn strip(toolchain: &Toolchain, object: &Path) -> Result<Vec<u8>, ProbesError> {
    let stripped = object.with_extension("stripped");
    let mut command = Command::new(&toolchain.objcopy);
    command.arg("--strip-debug").arg(object).arg(&stripped);
    let Output { status, stderr, .. } = command
        .output()
        .map_err(|source| ProbesError::Run { program: toolchain.objcopy.display().to_string(), source })?;
    if !status.success() {
        return Err(ProbesError::Strip(String::from_utf8_lossy(&stderr).into_owned()));
    }
    read(&stripped)
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().next()?.trim().to_owned())
}

fn read(path: &Path) -> Result<Vec<u8>, ProbesError> {
    fs::read(path).map_err(|source| ProbesError::File { path: path.to_path_buf(), source })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ProbesError> {
    fs::write(path, bytes).map_err(|source| ProbesError::File { path: path.to_path_buf(), source })
}

fn not_run(why: &str) -> Result<(), ProbesError> {
    println!("# not run: comparing the eBPF objects with their sources: {why}");
    Ok(())
}
