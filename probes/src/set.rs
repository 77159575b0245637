//! A set of probes: chosen, attached as well as the kernel allows, read, detached.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use aya::{Btf, EbpfLoader};
use iommu_probes_common::{Config, Record};

use crate::{
    Attempt, Definition, Group, Kind, ProbeError, Snapshot, catalogue,
    instance::{Failure, Instance, Plan},
    kernel::Kernel,
    resolve::{self, End},
};

/// Whom probes watch. Events of others are not counted; the kernel's programs look.
///
/// Ids are the kernel's: inside a container they differ from those the process sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only threads of this process.
    pub tgid: Option<u32>,
    /// Only this thread.
    pub tid: Option<u32>,
    /// Only threads whose name is this; with 15 bytes or more, whose name begins with the first 15.
    pub comm: Option<String>,
}

impl Filter {
    pub(crate) fn apply(&self, config: &mut Config) {
        config.tgid = self.tgid.unwrap_or(0);
        config.tid = self.tid.unwrap_or(0);
        if let Some(comm) = &self.comm {
            // The kernel keeps 15 bytes and a zero; comparing the zero makes it the whole name.
            let length = comm.len().min(15);
            config.comm[..length].copy_from_slice(&comm.as_bytes()[..length]);
            config.comm_len = length as u32 + 1;
        }
    }
}

/// What applies to all probes of a set.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) filter: Filter,
    pub(crate) ring_bytes: Option<u32>,
    pub(crate) log: bool,
    pub(crate) max_keys: Option<u32>,
    pub(crate) max_open: u32,
    pub(crate) kinds: Option<Vec<Kind>>,
}

/// Chooses probes and attaches them.
///
/// ```no_run
/// use iommu_probes::{Filter, Group, ProbeSet};
///
/// let mut probes = ProbeSet::builder()
///     .groups([Group::Kvm, Group::Iommu])
///     .filter(Filter { comm: Some("qemu-system-x86".into()), ..Filter::default() })
///     .start();
/// for skipped in probes.skipped() {
///     eprintln!("{}: {}", skipped.name, skipped.reason);
/// }
/// let before = probes.snapshot()?;
/// // … what is to be observed …
/// let during = probes.snapshot()?.since(&before);
/// for probe in &during.probes {
///     println!("{}: {} events", probe.definition.name, probe.total());
/// }
/// # Ok::<(), iommu_probes::ProbeError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    definitions: Vec<&'static Definition>,
    options: Options,
}

impl Builder {
    /// Adds all probes of these groups.
    pub fn groups(self, groups: impl IntoIterator<Item = Group>) -> Self {
        groups.into_iter().fold(self, |builder, group| builder.definitions(catalogue::group(group)))
    }

    /// Adds the default set: every group's probes that cost little.
    pub fn default_set(self) -> Self {
        self.definitions(catalogue::all().filter(|probe| probe.default))
    }

    /// Adds these probes, from the catalogue or one's own. One that is there already is not added again.
    pub fn definitions(mut self, definitions: impl IntoIterator<Item = &'static Definition>) -> Self {
        for definition in definitions {
            if self.definitions.iter().all(|there| there.name != definition.name) {
                self.definitions.push(definition);
            }
        }
        self
    }

    /// Watches only what the filter allows.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.options.filter = filter;
        self
    }

    /// Gives each probe a ring buffer of raw events of at least this size; see [`ProbeSet::drain`].
    pub const fn ring_bytes(mut self, bytes: u32) -> Self {
        self.options.ring_bytes = Some(bytes);
        self
    }

    /// Lets the programs log their first events and losses; see [`ProbeSet::flush_log`].
    pub const fn log(mut self, on: bool) -> Self {
        self.options.log = on;
        self
    }

    /// Keeps at most this many keys a probe, instead of what its definition says.
    pub const fn max_keys(mut self, keys: u32) -> Self {
        self.options.max_keys = Some(keys);
        self
    }

    /// Keeps at most this many open pairs a probe, that is threads; 8192 unless said otherwise.
    pub const fn max_open(mut self, pairs: u32) -> Self {
        self.options.max_open = if pairs == 0 { 1 } else { pairs };
        self
    }

    /// Tries these kinds of hooks only, to compare them.
    pub fn only_kinds(mut self, kinds: impl IntoIterator<Item = Kind>) -> Self {
        self.options.kinds = Some(kinds.into_iter().collect());
        self
    }

    /// Loads and attaches every probe in the best way the kernel allows. What cannot be attached is skipped with its
    /// reason; so this never fails.
    #[must_use]
    pub fn start(self) -> ProbeSet {
        let mut modules: Vec<_> = self.definitions.iter().filter_map(|probe| probe.module).collect();
        modules.sort_unstable();
        modules.dedup();
        self.start_on(&Kernel::look(&modules))
    }

    pub(crate) fn start_on(self, kernel: &Kernel) -> ProbeSet {
        let mut set = ProbeSet { instances: Vec::new(), skipped: Vec::new(), is_attached: true };
        let mut plans = Vec::new();
        let not_permitted = (!kernel.permitted).then(|| Arc::new(ProbeError::NotPermitted));
        for definition in self.definitions {
            let planned = match &not_permitted {
                Some(reason) => Err(Arc::clone(reason)),
                None => plan(kernel, definition, &self.options),
            };
            match planned {
                Ok(ways) => plans.push(ways),
                Err(reason) => set.skipped.push(Skipped { name: definition.name, reason }),
            }
        }
        if plans.is_empty() {
            return set;
        }
        let types = Btf::from_sys_fs().ok();
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        let mut refused = BTreeMap::new();
        for ways in &plans {
            match start_one(&mut loader, ways, types.as_ref(), &self.options, kernel, &mut refused) {
                Ok(instance) => set.instances.push(instance),
                Err(reason) => {
                    set.skipped.push(Skipped { name: ways[0].definition.name, reason: Arc::new(reason) })
                }
            }
        }
        set
    }
}

/// Every way to attach a probe, best first.
fn plan(
    kernel: &Kernel,
    definition: &'static Definition,
    options: &Options,
) -> Result<Vec<Plan>, Arc<ProbeError>> {
    let opening = wanted(resolve::opening(kernel, definition)?, options)?;
    if !definition.is_pair() {
        return Ok(opening.into_iter().map(|open| Plan::new(definition, open, None, options)).collect());
    }
    let closing = wanted(resolve::closing(kernel, definition)?, options)?;
    let pairs = opening.iter().flat_map(|open| closing.iter().map(move |close| (open, close)));
    Ok(pairs.map(|(open, close)| Plan::new(definition, open.clone(), Some(close.clone()), options)).collect())
}

/// Those of the kinds asked for.
fn wanted(ends: Vec<End>, options: &Options) -> Result<Vec<End>, Arc<ProbeError>> {
    let Some(kinds) = &options.kinds else { return Ok(ends) };
    let offered: Vec<_> = ends.iter().map(|end| end.kind.name()).collect();
    let left: Vec<_> = ends.iter().filter(|end| kinds.contains(&end.kind)).cloned().collect();
    if left.is_empty() {
        Err(Arc::new(ProbeError::KindsExcluded { offered: offered.join(", ") }))
    } else {
        Ok(left)
    }
}

/// Attaches a probe in the first way that works. `refused` remembers kinds that this kernel refuses in general.
fn start_one<'a>(
    loader: &mut EbpfLoader<'a>,
    ways: &'a [Plan],
    types: Option<&Btf>,
    options: &Options,
    kernel: &Kernel,
    refused: &mut BTreeMap<Kind, Attempt>,
) -> Result<Instance, ProbeError> {
    let mut attempts: Vec<Attempt> = Vec::new();
    for way in ways {
        let kinds = [Some(way.open.kind), way.close.as_ref().map(|close| close.kind)];
        if let Some(known) = kinds.into_iter().flatten().find_map(|kind| refused.get(&kind)) {
            note(&mut attempts, known.repeated());
            continue;
        }
        let failure = match Instance::load(loader, way, types, options) {
            Ok(mut instance) => match instance.attach() {
                Ok(()) => return Ok(instance),
                Err(failure) => failure,
            },
            Err(failure) => failure,
        };
        match failure {
            Failure::Broken(error) => return Err(error),
            Failure::Refused(mut attempt) => {
                attempt.locked_down = kernel.locked_down;
                if attempt.is_final() {
                    refused.insert(attempt.kind, attempt.repeated());
                }
                note(&mut attempts, attempt);
            }
        }
    }
    Err(ProbeError::Refused { attempts })
}

/// One attempt a kind is enough to say.
fn note(attempts: &mut Vec<Attempt>, attempt: Attempt) {
    if attempts.iter().all(|there| there.kind != attempt.kind) {
        attempts.push(attempt);
    }
}

/// A probe that is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its name.
    pub name: &'static str,
    /// Its group.
    pub group: Group,
    /// How each end is attached: one for a single event, opening and closing for a pair.
    pub kinds: Vec<Kind>,
    /// What it is attached to, for people.
    pub target: String,
}

impl Attached {
    /// The kinds in one word: `tp_btf`, `tracepoint+tp_btf`.
    #[must_use]
    pub fn kind(&self) -> String {
        let mut kinds: Vec<_> = self.kinds.iter().map(|kind| kind.name()).collect();
        kinds.dedup();
        kinds.join("+")
    }
}

/// A probe that is not attached.
#[derive(Clone, Debug)]
pub struct Skipped {
    /// Its name.
    pub name: &'static str,
    /// Why, and what would change that.
    pub reason: Arc<ProbeError>,
}

/// Probes that are loaded, and attached unless [`ProbeSet::detach`] was called. Dropping it takes them all away.
#[derive(Debug)]
pub struct ProbeSet {
    instances: Vec<Instance>,
    skipped: Vec<Skipped>,
    is_attached: bool,
}

impl ProbeSet {
    /// Starts with no probe chosen.
    pub const fn builder() -> Builder {
        Builder {
            definitions: Vec::new(),
            options: Options {
                filter: Filter { tgid: None, tid: None, comm: None },
                ring_bytes: None,
                log: false,
                max_keys: None,
                max_open: 8192,
                kinds: None,
            },
        }
    }

    /// Which probes are loaded, and how they are attached.
    #[must_use]
    pub fn attached(&self) -> Vec<Attached> {
        self.instances
            .iter()
            .map(|instance| {
                let targets: Vec<_> = instance.ends().map(|(_, target)| target.to_string()).collect();
                let same = targets.iter().all(|target| *target == targets[0]);
                Attached {
                    name: instance.definition.name,
                    group: instance.definition.group,
                    kinds: instance.ends().map(|(kind, _)| kind).collect(),
                    target: if same { targets[0].clone() } else { targets.join(" to ") },
                }
            })
            .collect()
    }

    /// Which probes are not, and why.
    #[must_use]
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// What all probes have counted until now. Processors are read one after the other while probes run on.
    ///
    /// # Errors
    ///
    /// A map cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot, ProbeError> {
        let probes = self.instances.iter().map(Instance::read).collect::<Result<_, _>>()?;
        Ok(Snapshot { at: Instant::now(), probes })
    }

    /// Takes all probes away from the kernel. They stay loaded and keep what they counted.
    pub fn detach(&mut self) {
        self.is_attached = false;
        for instance in &mut self.instances {
            instance.detach();
        }
    }

    /// Attaches again after [`ProbeSet::detach`]. A probe that the kernel now refuses moves to the skipped ones.
    pub fn attach(&mut self) {
        self.is_attached = true;
        let skipped = &mut self.skipped;
        self.instances.retain_mut(|instance| {
            let reason = match instance.attach() {
                Ok(()) => return true,
                Err(Failure::Refused(attempt)) => ProbeError::Refused { attempts: vec![attempt] },
                Err(Failure::Broken(error)) => error,
            };
            skipped.push(Skipped { name: instance.definition.name, reason: Arc::new(reason) });
            false
        });
    }

    /// Whether the probes are attached.
    #[must_use]
    pub const fn is_attached(&self) -> bool {
        self.is_attached
    }

    /// Takes the raw events out of the ring buffers, if [`Builder::ring_bytes`] asked for them; returns how many.
    pub fn drain(&mut self, mut each: impl FnMut(&'static Definition, Record)) -> u64 {
        let mut taken = 0;
        for instance in &mut self.instances {
            let definition = instance.definition;
            taken += instance.drain(|record| each(definition, record));
        }
        taken
    }

    /// Passes what the programs logged to `tracing`, if [`Builder::log`] asked for it.
    pub fn flush_log(&mut self) {
        self.instances.iter_mut().for_each(Instance::flush_log);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_compared_whole_or_by_its_first_fifteen_bytes() {
        let apply = |comm: &str| {
            let mut config = Config::default();
            Filter { comm: Some(comm.to_owned()), ..Filter::default() }.apply(&mut config);
            (config.comm, config.comm_len)
        };
        assert_eq!(apply("qemu"), (*b"qemu\0\0\0\0\0\0\0\0\0\0\0\0", 5));
        assert_eq!(apply("qemu-system-x86_64"), (*b"qemu-system-x86\0", 16));
        assert_eq!(apply("").1, 1, "the empty name, not any name");
    }

    #[test]
    fn without_permission_every_probe_is_skipped_with_the_remedy() {
        let mut kernel = Kernel::look(&[]);
        kernel.permitted = false;
        let set = ProbeSet::builder().default_set().start_on(&kernel);
        assert!(set.attached().is_empty());
        assert_eq!(set.skipped().len(), catalogue::all().filter(|probe| probe.default).count());
        assert!(set.skipped().iter().all(|skipped| skipped.reason.to_string().contains("run as root")));
    }

    #[test]
    fn a_probe_is_chosen_once() {
        let builder = ProbeSet::builder().groups([Group::Kvm]).groups([Group::Kvm]).default_set();
        let mut names: Vec<_> = builder.definitions.iter().map(|probe| probe.name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
