//! VFIO for real: this program boots the lab with itself as the only program inside, and there drives devices through the
//! kernel's VFIO and IOMMU.
//!
//! It is its own test runner: outside it boots, inside it runs the checks. Each boot is another kernel command line.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test runner")]

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use iommu_lab::{Event, Job, Lab, Machine, Sources, guest, job, session};

mod bindings;
mod edu;
mod guests;
mod limits;
mod net;
mod nvme;
mod rig;
mod trace;

/// A check and its name.
type Check = (&'static str, fn());

/// A boot: its name, further words for the kernel, and what is checked.
struct Boot {
    name: &'static str,
    kernel_args: &'static [&'static str],
    checks: &'static [Check],
}

/// Names a check after its function.
macro_rules! checks {
    ($($module:ident :: $check:ident),* $(,)?) => { &[$((stringify!($check), $module::$check as fn())),*] };
}

const BOOTS: [Boot; 2] = [
    Boot {
        name: "usual",
        kernel_args: &[],
        checks: checks![
            bindings::an_unbound_device_is_not_taken,
            bindings::another_drivers_device_is_not_taken,
            bindings::binding_is_done_and_undone,
            bindings::a_group_with_a_host_device_is_not_viable,
            bindings::a_second_owner_is_refused,
            bindings::a_killed_run_leaves_no_mapping_and_its_binding_is_undone,
            edu::the_host_says_what_is_reserved,
            edu::a_device_reaches_what_is_mapped_and_nothing_after_unmap,
            edu::read_only_stays_read_only,
            edu::bytes_are_those_of_the_kernels_tracepoints,
            guests::a_guests_bytes_are_those_of_vfio_and_the_kernel,
            guests::unmaps_of_a_batch_are_forwarded_as_told,
            guests::a_dma_after_a_guests_unmap_is_blocked,
            guests::attach_narrows_the_domain_to_the_hosts_iommu,
            net::a_frame_after_unmap_changes_nothing,
            nvme::a_disk_holds_what_it_was_made_with_and_what_is_written,
            nvme::a_disks_dma_after_unmap_is_blocked,
            nvme::a_disk_that_stops_is_given_back_and_works_again,
            limits::the_limit_of_mappings_is_met_with_no_memory,
            limits::locked_memory_is_met_with_no_memory,
        ],
    },
    Boot {
        name: "without interrupt remapping",
        kernel_args: &["intremap=off"],
        checks: checks![bindings::unsafe_interrupts_are_refused_until_they_are_allowed],
    },
];

/// Lines of the console that are shown when a boot breaks.
const CONSOLE_LINES: usize = 150;
/// What a check starts this program as again.
const HOLD: &str = "hold";

fn main() -> ExitCode {
    if guest::is_first_process() {
        guest::main();
    }
    if job::inside().is_none() {
        return outside();
    }
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some(HOLD) => bindings::hold(),
        Some(name) => inside(BOOTS.iter().find(|boot| boot.name == name).expect("a boot has this name")),
        None => ExitCode::FAILURE,
    }
}

fn outside() -> ExitCode {
    let lab = match iommu_lab::prepare(&Sources::default(), &mut |what| eprintln!("lab: {what}")) {
        Ok(lab) => lab,
        Err(error) => {
            iommu_equipment::missing(iommu_equipment::Equipment::Lab, error);
            return ExitCode::SUCCESS;
        }
    };
    let failed: Vec<&str> = BOOTS.iter().filter(|boot| !passes(&lab, boot)).map(|boot| boot.name).collect();
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("boots with failures: {}", failed.join(", "));
    ExitCode::FAILURE
}

/// Boots and runs the checks inside; whether all passed.
fn passes(lab: &Lab, boot: &Boot) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let job = Job { args: vec![boot.name.to_owned()], ..Job::default() };
    let kernel_args = boot.kernel_args.iter().map(|&word| word.to_owned()).collect();
    let ended = session::run(
        lab,
        &Machine { kernel_args, ..Machine::default() },
        &program,
        &job,
        folder.path(),
        &|| false,
        &mut |event| {
            if let Event::Stderr(bytes) = event {
                eprint!("{}", String::from_utf8_lossy(bytes));
            }
        },
    );
    match ended {
        Ok(ended) => {
            print!("{}", String::from_utf8_lossy(&ended.stdout));
            ended.code == 0
        }
        Err(error) => {
            println!("test booting ({}) ... FAILED\n{error}", boot.name);
            let console = fs::read_to_string(folder.path().join(session::CONSOLE_FILE)).unwrap_or_default();
            let lines: Vec<&str> = console.lines().collect();
            println!("{}", lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n"));
            false
        }
    }
}

fn inside(boot: &Boot) -> ExitCode {
    let mut failed = 0;
    println!("\nrunning {} tests in the lab ({})", boot.checks.len(), boot.name);
    for (name, check) in boot.checks {
        // Beside the kernel's own messages, for whoever reads the console of a boot that failed.
        let _ = fs::write("/dev/kmsg", format!("check {name}"));
        let passed = catch_unwind(AssertUnwindSafe(check)).is_ok();
        failed += usize::from(!passed);
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {} passed; {failed} failed;", boot.checks.len() - failed);
    ExitCode::from(u8::from(failed > 0))
}
