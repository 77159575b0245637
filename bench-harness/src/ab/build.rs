//! From `BIN|REV` to binaries: taken as they are, or built from a revision, in one or several link orders.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{failure::Failure, out};

/// Where builds of revisions are kept, below the repository.
const FOLDER: &str = "target/ab";

/// One side of a comparison.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    /// How the user named it, and its commit where it is a revision.
    pub(crate) label: String,
    /// The binary in each link order; at least one.
    pub(crate) binaries: Vec<PathBuf>,
}

impl Side {
    /// Takes binaries, or builds one revision in `layouts` link orders.
    ///
    /// # Errors
    /// When a name is neither, git or cargo is missing, or a build fails.
    pub(crate) fn resolve(side: &str, names: &[String], layouts: u16, quiet: bool) -> Result<Self, Failure> {
        if let [name] = names
            && !Path::new(name).is_file()
        {
            return Self::built(side, name, layouts, quiet);
        }
        let binaries = names.iter().map(|name| executable(side, name)).collect::<Result<Vec<_>, _>>()?;
        if layouts > 1 && binaries.len() == 1 {
            let message = format!("--{side} {} is a binary: its link order is fixed", names[0]);
            return Err(Failure::usage(message)
                .with_remedy("give a revision with --layouts, or the side several times, a binary each"));
        }
        Ok(Self { label: names.join(", "), binaries })
    }

    fn built(side: &str, name: &str, layouts: u16, quiet: bool) -> Result<Self, Failure> {
        let unknown = || {
            Failure::usage(format!("--{side} {name}: neither a file nor a git revision here"))
                .with_remedy("give a path such as ./iommu-bench, or a revision and run inside the repository")
        };
        let root = git(Path::new("."), ["rev-parse", "--show-toplevel"]).ok_or_else(unknown)?;
        let root = PathBuf::from(root);
        let wanted = format!("{name}^{{commit}}");
        let commit = git(&root, ["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted])
            .ok_or_else(unknown)?;
        let short: String = commit.chars().take(12).collect();
        let builder = Builder { root: &root, commit: &commit, short: &short, quiet };
        let binaries = (0..layouts).map(|layout| builder.binary(layout)).collect::<Result<Vec<_>, _>>()?;
        let label = if name.starts_with(&short) { short } else { format!("{name} ({short})") };
        Ok(Self { label, binaries })
    }
}

fn executable(side: &str, name: &str) -> Result<PathBuf, Failure> {
    use std::os::unix::fs::PermissionsExt;
    let wrong = |what: String| Failure::usage(format!("--{side} {name}: {what}"));
    let metadata = fs::metadata(name).map_err(|error| wrong(error.to_string()))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(wrong("not an executable file".to_owned()));
    }
    fs::canonicalize(name).map_err(|error| wrong(error.to_string()))
}

struct Builder<'r> {
    root: &'r Path,
    commit: &'r str,
    short: &'r str,
    quiet: bool,
}

impl Builder<'_> {
    /// The binary in this link order, built if it is not there yet.
    fn binary(&self, layout: u16) -> Result<PathBuf, Failure> {
        let place = self.root.join(FOLDER).join("bin").join(format!("{}-{layout}", self.short));
        if place.is_file() {
            return Ok(place);
        }
        if !self.quiet {
            out::note(&format!("building {} in link order {layout}, which takes minutes", self.short));
        }
        let source = self.checkout()?;
        let target = self.root.join(FOLDER).join("build");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&source).env("CARGO_TARGET_DIR", &target);
        cargo.args([
            "rustc",
            "--release",
            "--locked",
            "--package",
            "iommu-bench",
            "--bin",
            "iommu-bench",
            "--quiet",
        ]);
        if layout > 0 {
            // Understood by lld, which rustc links with on x86-64 Linux.
            cargo.args(["--", "-C", &format!("link-arg=-Wl,--shuffle-sections=.text*={layout}")]);
        }
        let built = cargo.stdin(Stdio::null()).output().map_err(|error| {
            Failure::prerequisite(format!("cargo cannot be run: {error}"), "install Rust, or give binaries")
        })?;
        self.forget(&source);
        if !built.status.success() {
            let said = String::from_utf8_lossy(&built.stderr);
            let first: Vec<&str> = said.lines().filter(|line| line.contains("error")).take(3).collect();
            return Err(Failure::failed(format!("{} does not build: {}", self.short, first.join("; "))));
        }
        let copied = place
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::copy(target.join("release/iommu-bench"), &place));
        copied.map_err(|error| Failure::failed(format!("{}: {error}", place.display())))?;
        Ok(place)
    }

    /// A work tree of the commit.
    fn checkout(&self) -> Result<PathBuf, Failure> {
        let source = self.root.join(FOLDER).join(format!("src-{}", self.short));
        // One that an interrupted build left behind.
        self.forget(&source);
        let path = source.as_os_str();
        let arguments = ["worktree", "add", "--quiet", "--force", "--detach"].map(OsStr::new);
        let arguments = arguments.into_iter().chain([path, OsStr::new(self.commit)]);
        match git(self.root, arguments) {
            Some(_) => Ok(source),
            None => Err(Failure::failed(format!(
                "git could not check out {} to {}",
                self.short,
                source.display()
            ))),
        }
    }

    fn forget(&self, source: &Path) {
        // Best effort: what stays is replaced by the next build.
        if source.exists() {
            let _ = git(
                self.root,
                ["worktree", "remove", "--force"].map(OsStr::new).into_iter().chain([source.as_os_str()]),
            );
        }
    }
}

/// What git prints, or nothing when it fails.
fn git(folder: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Option<String> {
    let output =
        Command::new("git").current_dir(folder).args(arguments).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
