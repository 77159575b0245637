//! `run … --machine lab`: the same command inside, its result stored outside.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use iommu_lab::{Job, job, session};
use iommu_results::{Run, RunFolder, Store, StoreError, StoredRun, Timestamp, file::read_given_text};

use super::{WorkFolder, inside, prepared};
use crate::{
    cli::{EndpointKind, Probes, RunArgs},
    exit::Exit,
    failure::{Failure, warn},
    interrupt::Interrupt,
    progress::Progress,
    run::{Assembled, show, store},
};

/// Runs the scenario inside and stores what comes out.
///
/// # Errors
/// When the lab cannot be prepared or breaks, the run fails inside, or the result cannot be stored.
pub(crate) fn run_inside(args: &RunArgs, scenario: &str) -> Result<Exit, Failure> {
    let interrupt = Interrupt::install().map_err(Failure::failed)?;
    let folder = Store::open(&args.out).and_then(|store| store.begin(scenario, Timestamp::now()));
    if let Err(error) = &folder {
        warn(&format!("the result will not be stored: {error}"));
    }
    let mut progress = Progress::new(Duration::ZERO, args.quiet);
    let lab = prepared(&args.lab, &progress)?;
    let work = WorkFolder::new(None)?;
    let job = job(args)?;
    let ended = match inside(&args.lab, &lab, job, work.path(), &interrupt, &mut progress) {
        Ok(ended) => ended,
        Err(error) => return Err(work.blame(error)),
    };
    progress.finish();
    let Some(found) = only_run(&ended.files)? else {
        let exit = Exit::from_code(ended.code).filter(|exit| *exit != Exit::Ok).unwrap_or(Exit::Failed);
        let message = format!("nothing was measured inside the lab (exit code {})", ended.code);
        return Err(Failure { exit, message, remedy: None });
    };
    let console = fs::read(&ended.console).unwrap_or_default();
    let (run, stored) = keep(found, folder, &console)?;
    show(args, &run, stored.as_ref().ok())?;
    conclude(ended.code, &run, stored)
}

/// The command line inside: what was given outside, less what only matters there.
fn job(args: &RunArgs) -> Result<Job, Failure> {
    let mut job = Job::default();
    let mut words = vec!["run".to_owned(), scenario(&args.scenario, &mut job)?, "--machine=lab".to_owned()];
    let mut option = |name: &str, value: Option<String>| {
        words.extend(value.map(|value| format!("--{name}={value}")));
    };
    option("out", Some(job::OUT_FOLDER.to_owned()));
    option("endpoint", args.endpoint.as_ref().map(EndpointKind::to_string));
    option("allow-writes", args.allow_writes.clone());
    for address in &args.allow_in_use {
        option("allow-in-use", Some(address.clone()));
    }
    option("modes", (!args.modes.is_empty()).then(|| args.modes.join(",")));
    option("duration", args.duration.map(|time| format!("{}ms", time.as_millis())));
    option("packets", args.packets.map(|n| n.to_string()));
    option("seed", args.seed.map(|n| n.to_string()));
    for set in &args.set {
        option("set", Some(set.clone()));
    }
    option("churn", Some(args.churn.to_string()));
    for sweep in &args.sweep {
        option("sweep", Some(sweep.clone()));
    }
    let probes = match args.probes {
        Probes::Auto => "auto",
        Probes::On => "on",
        Probes::Off => "off",
    };
    option("probes", Some(probes.to_owned()));
    // Inside, no driver has the devices, and nobody else wants them.
    words.push("--bind".to_owned());
    words.extend(args.quick.then(|| "--quick".to_owned()));
    words.push("--quiet".to_owned());
    job.args = words;
    Ok(job)
}

/// A built-in scenario's name, or the place inside of the user's file.
fn scenario(name: &str, job: &mut Job) -> Result<String, Failure> {
    let path = Path::new(name);
    if !name.ends_with(".toml") && !name.contains('/') {
        return Ok(name.to_owned());
    }
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let content =
        read_given_text(path).map_err(|error| Failure::usage(format!("{name}: {error}")))?.into_bytes();
    let place = format!("{}/{file}", job::JOB_FOLDER);
    job.files.insert(file, content);
    Ok(place)
}

/// The one run among the files that came out.
fn only_run(files: &Path) -> Result<Option<StoredRun>, Failure> {
    let list = Store::open(files).and_then(|store| store.list()).map_err(Failure::failed)?;
    list.first().map(Store::load).transpose().map_err(Failure::failed)
}

/// Stores the run under the name it has outside, with the console beside it.
fn keep(
    found: StoredRun,
    folder: Result<RunFolder, StoreError>,
    console: &[u8],
) -> Result<(Run, Result<PathBuf, StoreError>), Failure> {
    let histograms = found.histograms().map_err(Failure::failed)?;
    let mut artefacts = found.artefacts().map_err(Failure::failed)?;
    if artefacts.series.is_none() {
        return Err(Failure::failed("the lab's result lacks its slices"));
    }
    let mut run = found.run;
    if let Ok(folder) = &folder {
        folder.run_id().clone_into(&mut run.run_id);
        artefacts.belong_to(folder.run_id());
    }
    let assembled = Assembled { run, histograms, artefacts };
    let stored = folder.and_then(|mut folder| {
        folder.write(session::CONSOLE_FILE, console)?;
        store(folder, &assembled)
    });
    Ok((assembled.run, stored))
}

fn conclude(code: i32, run: &Run, stored: Result<PathBuf, StoreError>) -> Result<Exit, Failure> {
    let folder = stored.map_err(|error| {
        Failure::failed(format!("the result is not stored: {error}"))
            .with_remedy("give a folder that can be written to with --out DIR")
    })?;
    match Exit::from_code(code) {
        Some(Exit::Ok) => Ok(Exit::Ok),
        Some(Exit::Interrupted) => {
            warn(&format!("interrupted: the partial result is in {}", folder.display()));
            Ok(Exit::Interrupted)
        }
        _ => {
            let cause = run.warnings.last().cloned().unwrap_or_else(|| format!("exit code {code}"));
            Err(Failure::failed(cause)
                .with_remedy(format!("what was measured until then is in {}", folder.display())))
        }
    }
}
