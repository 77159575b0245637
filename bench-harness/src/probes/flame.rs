//! The profile of a run: recorded in the rounds in which probes are attached, so that their measured cost is its cost too.

use iommu_profile::{Background, KernelStacks, Profile, Settings};
use iommu_results::{ProbeAttached, ProbeSkipped, Probes, artefacts};

use super::attached_in;

/// Its name among the run's probes.
const NAME: &str = "profile";

/// A profile being recorded, or why there is none.
pub(crate) struct Flame {
    running: Result<Background, String>,
}

impl Flame {
    /// Attaches to this process, and pauses.
    pub(crate) fn start() -> Self {
        let running = i32::try_from(std::process::id())
            .map_err(|error| error.to_string())
            .and_then(|pid| Background::start(pid, Settings::default()).map_err(|error| error.to_string()));
        let flame = Self { running };
        flame.for_round(None);
        flame
    }

    /// Samples or pauses, as the round wants it.
    pub(crate) fn for_round(&self, round: Option<u32>) {
        if let Ok(running) = &self.running {
            running.run(attached_in(round));
        }
    }

    /// Ends it and finds the names.
    pub(crate) fn finish(self) -> Result<Profile, String> {
        self.running?.stop().map_err(|error| error.to_string())
    }
}

/// What the run's record says about its profile; what is kept of it beside the record, and what must be said aloud.
pub(crate) fn record(
    probes: &mut Probes,
    profile: Result<Profile, String>,
    title: &str,
) -> (Option<artefacts::Profile>, Option<String>) {
    let profile = match profile {
        Ok(profile) => profile,
        Err(reason) => {
            let said = format!("left out: {NAME}: {reason}");
            probes.skipped.push(ProbeSkipped { name: NAME.to_owned(), reason });
            return (None, Some(said));
        }
    };
    let stacks = match &profile.kernel {
        KernelStacks::Recorded => "kernel and user stacks",
        KernelStacks::NotAsked | KernelStacks::Refused { .. } => "user stacks only",
    };
    let target = format!("{} at {} Hz, {stacks}", profile.event, profile.frequency_hz);
    probes.attached.push(ProbeAttached { name: NAME.to_owned(), kind: "perf_event".to_owned(), target });
    probes.lost.insert(NAME.to_owned(), profile.lost.saturating_add(profile.unreadable));
    let about = serde_json::json!({
        "samples": profile.samples, "lost": profile.lost, "throttled": profile.throttled, "about": profile.describe(),
    });
    probes.more.insert(NAME.to_owned(), about);
    match profile.svg(title) {
        Ok(Some(svg)) => (Some(artefacts::Profile { folded: profile.folded(), svg }), None),
        Ok(None) => (None, None),
        Err(error) => (None, Some(error.to_string())),
    }
}
