//! Stands in for rustc where a build must not depend on the folder it is made in.
//!
//! Cargo hashes the folder of a package that comes from no registry into `-C metadata`, and rustc puts that into symbols. By
//! symbols it orders and divides what it compiles: what is inlined where, and with it the code, depends on the folder.

use std::{
    env, io,
    process::{Command, ExitCode},
};

/// Set for the compiler calls of such a build, to the names of the crates: this program then stands in for rustc.
const AS_COMPILER: &str = "XTASK_AS_COMPILER";

/// Lets `cargo` give the crates `names` metadata made of their names alone.
///
/// # Errors
/// When this program cannot be found.
pub(crate) fn rename<S: AsRef<str>>(
    cargo: &mut Command,
    names: impl IntoIterator<Item = S>,
) -> io::Result<()> {
    let names: Vec<String> = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
    cargo.env("RUSTC_WRAPPER", env::current_exe()?).env(AS_COMPILER, names.join(","));
    Ok(())
}

/// The same call of rustc, but what cargo made of a package's folder becomes the crate's name. `None` in every other call of
/// this program.
pub(crate) fn as_compiler() -> Option<ExitCode> {
    let names = env::var(AS_COMPILER).ok()?;
    let arguments: Vec<_> = env::args().skip(1).collect();
    let (rustc, rest) = arguments.split_first()?;
    let status = Command::new(rustc).args(renamed(rest, &names)).status();
    Some(match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: cannot run {rustc}: {error}");
            ExitCode::FAILURE
        }
    })
}

fn renamed(arguments: &[String], names: &str) -> Vec<String> {
    let name = arguments.windows(2).find(|two| two[0] == "--crate-name").map(|two| two[1].as_str());
    let Some(name) = name.filter(|name| names.split(',').any(|one| one == *name)) else {
        return arguments.to_vec();
    };
    let rename = |argument: &String| match argument.strip_prefix("metadata=") {
        Some(_) => format!("metadata={name}"),
        None => argument.clone(),
    };
    arguments.iter().map(rename).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_crates_are_renamed() {
        let call = |name: &str| {
            ["--crate-name", name, "-C", "metadata=0123", "-C", "extra-filename=-45"]
                .map(str::to_owned)
                .to_vec()
        };
        let ours = "events,sites";
        assert_eq!(renamed(&call("events"), ours)[3], "metadata=events");
        assert_eq!(
            renamed(&call("events"), ours)[5],
            "extra-filename=-45",
            "the file's name is cargo's business"
        );
        assert_eq!(
            renamed(&call("aya_ebpf"), ours),
            call("aya_ebpf"),
            "a registry's crate has no folder in its hash"
        );
        assert_eq!(renamed(&["-vV".to_owned()], ours), ["-vV"]);
    }
}
