//! The sites of our own device and driver: how many requests passed each, and where a request's time went.
//!
//! The crate `iommu-sites` defines the sites, [`iommu_probes_common::site`] what the program at them keeps. This
//! module attaches that program to every place of every site in a program file and reads its maps.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapError, PerCpuHashMap},
    programs::{
        UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLinkId, UProbeScope},
    },
};
use iommu_probes_common::{
    Histogram, Key,
    site::{Part, Site, Timeline, counter, stage},
};
use iommu_site_reader::FoundSite;

use crate::{Attempt, Kind, LogHistogram, ProbeError, kernel};

/// The committed object with the program at the sites.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../object/sites.bpf.o");
const PROGRAM: &str = "site";
/// Provider of our notes.
const PROVIDER: &str = "iommu_bench";

/// Probes at the sites of a program.
///
/// ```no_run
/// use iommu_probes::{SiteProbes, common::site::{Part, Site}};
///
/// let mut sites = SiteProbes::own()?;
/// // … requests …
/// let seen = sites.snapshot()?;
/// println!("{} requests completed", seen.requests(Site::Completed));
/// for ((kind, part), histogram) in &seen.parts {
///     println!("type {kind}, {}: {:.0} ns on average", part.name(), histogram.mean());
/// }
/// sites.detach();
/// # Ok::<(), iommu_probes::ProbeError>(())
/// ```
#[derive(Debug)]
pub struct SiteProbes {
    ebpf: Ebpf,
    path: PathBuf,
    process: Option<NonZeroU32>,
    places: Vec<(Site, u64)>,
    links: Vec<UProbeLinkId>,
}

impl SiteProbes {
    /// Attaches to this process's own sites.
    ///
    /// # Errors
    ///
    /// As [`SiteProbes::of`].
    pub fn own() -> Result<Self, ProbeError> {
        let path = std::env::current_exe().map_err(|error| ProbeError::Target {
            what: format!("the program's own file cannot be found: {error}"),
            remedy: "mount /proc",
        })?;
        Self::of(&path, NonZeroU32::new(std::process::id()))
    }

    /// Attaches to the sites of a program file, in one process or in all that run it.
    ///
    /// # Errors
    ///
    /// The file has no sites or cannot be read, the process is gone, or the kernel refuses the program or a uprobe.
    pub fn of(path: &Path, process: Option<NonZeroU32>) -> Result<Self, ProbeError> {
        if !kernel::may_load_programs() {
            return Err(ProbeError::NotPermitted);
        }
        let found = iommu_site_reader::sites_of(path).map_err(|error| ProbeError::Target {
            what: format!("the sites of {} cannot be read: {error}", path.display()),
            remedy: "give an x86-64 program of this project",
        })?;
        let places = places(&found);
        if places.is_empty() {
            return Err(ProbeError::Target {
                what: format!("{} has no sites", path.display()),
                remedy: "build it for x86-64 Linux, without the feature `sites-off`",
            });
        }
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .map_max_entries("AYA_LOGS", 1)
            .load(OBJECT)
            .map_err(|error| ProbeError::Object(Box::new(error)))?;
        program(&mut ebpf)?.load().map_err(|error| refused(&error))?;
        let mut probes = Self { ebpf, path: path.to_path_buf(), process, places, links: Vec::new() };
        probes.attach()?;
        Ok(probes)
    }

    /// Which sites are attached, with the number of places that each has in the program.
    #[must_use]
    pub fn attached(&self) -> BTreeMap<Site, usize> {
        self.places.iter().fold(BTreeMap::new(), |mut sites, (site, _)| {
            *sites.entry(*site).or_default() += 1;
            sites
        })
    }

    /// Attaches again after [`SiteProbes::detach`].
    ///
    /// # Errors
    ///
    /// The process is gone, or the kernel refuses a uprobe; then none is attached.
    pub fn attach(&mut self) -> Result<(), ProbeError> {
        if !self.links.is_empty() {
            return Ok(());
        }
        for (site, offset) in self.places.clone() {
            let point = UProbeAttachPoint {
                location: UProbeAttachLocation::AbsoluteOffset(offset),
                cookie: Some(site as u64),
            };
            let scope = self.process.map_or(UProbeScope::AllProcesses, UProbeScope::OneProcess);
            match program(&mut self.ebpf)?.attach(point, &self.path, scope) {
                Ok(link) => self.links.push(link),
                Err(error) => {
                    self.detach();
                    return Err(refused(&error));
                }
            }
        }
        Ok(())
    }

    /// Takes the probes away; what they counted stays.
    pub fn detach(&mut self) {
        for link in std::mem::take(&mut self.links) {
            if let Err(error) = program(&mut self.ebpf).map(|program| program.detach(link)) {
                tracing::warn!(%error, "a site could not be detached");
            }
        }
    }

    /// What was seen until now.
    ///
    /// # Errors
    ///
    /// A map cannot be read.
    pub fn snapshot(&self) -> Result<SitesSeen, ProbeError> {
        self.read().map_err(|source| ProbeError::Map { probe: "sites".to_owned(), source: Box::new(source) })
    }

    fn read(&self) -> Result<SitesSeen, MapError> {
        let map = |name: &'static str| {
            self.ebpf.map(name).ok_or_else(|| MapError::InvalidName { name: name.to_owned() })
        };
        let counters: Array<_, u64> = map("COUNTERS")?.try_into()?;
        let mut seen = SitesSeen::default();
        for (index, value) in seen.counters.iter_mut().enumerate() {
            *value = counters.get(&(index as u32), 0)?;
        }
        let requests: HashMap<_, u64, Timeline> = map("REQUESTS")?.try_into()?;
        for request in requests.iter() {
            seen.open += u64::from(request?.1.stage == stage::OPEN);
        }
        let parts: PerCpuHashMap<_, Key, Histogram> = map("PARTS")?.try_into()?;
        for part in parts.iter() {
            let (key, values) = part?;
            let Some(part) = Part::from_number(key.sub) else { continue };
            let total = seen.parts.entry((key.id, part)).or_default();
            values.iter().for_each(|one| total.add(one));
        }
        Ok(seen)
    }
}

impl Drop for SiteProbes {
    fn drop(&mut self) {
        self.detach();
    }
}

/// What the probes at the sites have seen.
#[derive(Clone, Debug, Default)]
pub struct SitesSeen {
    counters: [u64; counter::ALL as usize],
    /// Requests that are under way.
    pub open: u64,
    /// Time of each part, ns, by the request's type on the wire. [`Part::Whole`] is the sum of those before it.
    pub parts: BTreeMap<(u64, Part), LogHistogram>,
}

impl SitesSeen {
    const fn counter(&self, index: u32) -> u64 {
        self.counters[index as usize]
    }

    /// How often a site was passed.
    #[must_use]
    pub const fn hits(&self, site: Site) -> u64 {
        self.counter(counter::HITS + site as u32)
    }

    /// How many requests that stands for: at a site of a batch, more than hits.
    #[must_use]
    pub const fn requests(&self, site: Site) -> u64 {
        self.counter(counter::REQUESTS + site as u32)
    }

    /// Requests whose time was cut into parts.
    #[must_use]
    pub const fn whole(&self) -> u64 {
        self.counter(counter::WHOLE)
    }

    /// Completions of requests whose submission was not seen, and submissions that were never completed.
    #[must_use]
    pub const fn unmatched(&self) -> u64 {
        self.counter(counter::UNOPENED) + self.counter(counter::REOPENED)
    }

    /// Requests lost because a map was full, and hits of unknown sites.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.counter(counter::OPEN_FULL) + self.counter(counter::PARTS_FULL) + self.counter(counter::UNKNOWN)
    }

    /// Adds what was seen at another time. `open` becomes the other's.
    pub fn add(&mut self, other: &Self) {
        for (total, more) in self.counters.iter_mut().zip(&other.counters) {
            *total = total.wrapping_add(*more);
        }
        self.open = other.open;
        for (key, histogram) in &other.parts {
            self.parts.entry(*key).or_default().merge(histogram);
        }
    }

    /// What was seen since `earlier`. `open` stays what it is now.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = self.clone();
        for (now, before) in difference.counters.iter_mut().zip(&earlier.counters) {
            *now = now.wrapping_sub(*before);
        }
        for (key, histogram) in &mut difference.parts {
            if let Some(before) = earlier.parts.get(key) {
                histogram.subtract(before);
            }
        }
        difference.parts.retain(|_, histogram| histogram.count() != 0);
        difference
    }

    /// Sum of the parts of one type of request, and of its whole, ns. They are equal.
    #[must_use]
    pub fn sums_ns(&self, kind: u64) -> (u64, u64) {
        let sum = |part| self.parts.get(&(kind, part)).map_or(0, LogHistogram::sum);
        let inside = Part::ALL.into_iter().filter(|part| *part < Part::Whole);
        (inside.map(sum).sum(), sum(Part::Whole))
    }
}

fn places(found: &[FoundSite]) -> Vec<(Site, u64)> {
    found
        .iter()
        .filter(|site| site.provider == PROVIDER)
        .filter_map(|found| Some((Site::from_name(&found.name)?, found.file_offset)))
        .collect()
}

fn program(ebpf: &mut Ebpf) -> Result<&mut UProbe, ProbeError> {
    let found = ebpf.program_mut(PROGRAM).and_then(|program| program.try_into().ok());
    found.ok_or_else(|| ProbeError::Target {
        what: "the committed object has no program for sites".to_owned(),
        remedy: "run `cargo xtask probes`",
    })
}

fn refused(error: &aya::programs::ProgramError) -> ProbeError {
    ProbeError::Refused { attempts: vec![Attempt::of(Kind::Uprobe, error)] }
}
