//! Profiles and counts of this process, with what the user running the tests is allowed.

#![allow(clippy::print_stderr, reason = "skipped tests say so")]

use std::{
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use iommu_profile::{
    Background, CounterSet, CountersError, Event, KernelStacks, ProfileError, Recorder, Settings,
};

fn own_pid() -> i32 {
    std::process::id() as i32
}

/// A function with a name to be found.
#[inline(never)]
fn a_function_that_burns_cpu(until: &AtomicBool) -> u64 {
    let mut sum = 0_u64;
    while !until.load(Ordering::Relaxed) {
        for i in 0..10_000 {
            sum = black_box(sum.wrapping_mul(31).wrapping_add(i));
        }
    }
    sum
}

/// Reports a refusal that is the machine's, not the code's.
fn skipped(error: &ProfileError) {
    iommu_equipment::missing(iommu_equipment::Equipment::PerfEvents, error);
}

#[test]
fn threads_started_later_are_in_the_profile_under_their_functions_names() {
    let settings = Settings { frequency_hz: 999, kernel: true };
    let recording = match Background::start(own_pid(), settings) {
        Ok(recording) => recording,
        Err(error @ (ProfileError::Refused { .. } | ProfileError::Unsupported { .. })) => {
            return skipped(&error);
        }
        Err(error) => panic!("{error}"),
    };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| a_function_that_burns_cpu(&done));
        thread::sleep(Duration::from_millis(400));
        done.store(true, Ordering::Relaxed);
    });
    let profile = recording.stop().unwrap();
    assert!(profile.samples > 20, "{}", profile.describe());
    assert_eq!(profile.samples, profile.stacks.values().sum::<u64>());
    let folded = profile.folded();
    assert!(folded.contains("own::a_function_that_burns_cpu"), "{folded}");
    assert!(!folded.contains("background::"), "the recording thread profiled itself:\n{folded}");
    assert!(profile.svg("test").unwrap().unwrap().contains("a_function_that_burns_cpu"));
    let root = nix_is_root();
    match profile.kernel {
        KernelStacks::Recorded => {}
        KernelStacks::Refused { reason } => assert!(!root, "root was refused kernel stacks: {reason}"),
        KernelStacks::NotAsked => panic!("they were asked for"),
    }
}

fn nix_is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    line.split_whitespace().nth(1) == Some("0")
}

#[test]
fn a_process_that_is_not_there_is_named() {
    let error = Recorder::attach(i32::MAX - 1, Settings::default(), &[]).err().unwrap();
    assert!(matches!(error, ProfileError::Gone { pid } if pid == i32::MAX - 1), "{error}");
    assert!(Background::start(i32::MAX - 1, Settings::default()).is_err());
}

#[test]
fn a_target_that_ends_leaves_its_profile() {
    let mut child = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
    thread::sleep(Duration::from_millis(50));
    let mut recorder =
        match Recorder::attach(child.id() as i32, Settings { frequency_hz: 999, kernel: true }, &[]) {
            Ok(recorder) => recorder,
            Err(error) => {
                child.kill().unwrap();
                child.wait().unwrap();
                return skipped(&error);
            }
        };
    let began = Instant::now();
    while recorder.samples() == 0 && began.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(50));
        recorder.drain();
    }
    assert!(recorder.target_alive());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!recorder.target_alive());
    let profile = recorder.finish();
    assert!(profile.samples > 0 && !profile.stacks.is_empty(), "{}", profile.describe());
}

#[test]
fn software_counters_count_what_threads_do_and_missing_hardware_says_why() {
    let events: Vec<Event> = Event::SOFTWARE.iter().chain(Event::HARDWARE).copied().collect();
    let mut counters = CounterSet::attach(own_pid(), &events);
    let before = counters.read();
    let mut pages = vec![0_u8; 64 << 12];
    thread::scope(|scope| {
        scope.spawn(|| {
            for page in pages.chunks_mut(4096) {
                page[0] = black_box(1);
            }
        });
    });
    black_box(&pages);
    let after = counters.read();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.event, after.event);
        let since = match (&before.value, &after.value) {
            (Ok(before), Ok(after)) => after.since(before),
            (Err(a), Err(b)) => {
                assert_eq!(a, b);
                let hardware = Event::HARDWARE.contains(&after.event);
                let refused = matches!(a, CountersError::Refused { .. });
                assert!(refused || hardware && matches!(a, CountersError::NoSuchCounter { .. }), "{a}");
                continue;
            }
            other => panic!("{other:?}"),
        };
        let scaled = since.scaled().unwrap();
        match after.event {
            Event::PageFaults => assert!(since.counted >= 32, "{since:?}"),
            Event::TaskClock => assert!(scaled > 0.0, "{since:?}"),
            Event::Cycles | Event::Instructions => assert!(scaled > 1000.0, "{since:?}"),
            Event::ContextSwitches | Event::DtlbMisses | Event::LlcMisses => {
                assert!(scaled >= 0.0, "{since:?}")
            }
        }
    }
}
