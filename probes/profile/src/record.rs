//! Sampling the threads of a process.

use std::{collections::HashMap, fs, io};

use perf_event::{
    Builder, SampleFlag, Sampler,
    data::{self, Record as PerfRecord},
    events::{Hardware, Software},
};

use crate::{
    KernelStacks, Mapping, Profile, ProfileError, maps::parse_maps, online_cpus, symbols::Symbols, threads,
};

/// Bytes of each ring buffer: about a quarter of a second of the deepest stacks at 200 Hz.
const RING_BYTES: usize = 1 << 16;
/// Bytes with which an unprivileged user's locked memory lasts for more threads.
const SMALL_RING_BYTES: usize = 1 << 14;
/// Addresses from here on are markers in a call chain, not code (`PERF_CONTEXT_MAX`, -4095).
const MARKERS_FROM: u64 = -4095_i64 as u64;
const CONTEXT_KERNEL: u64 = -128_i64 as u64;
const CONTEXT_USER: u64 = -512_i64 as u64;

/// How to sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Samples a second and CPU, at most; 99 rather than 100, so that sampling follows no timer.
    pub frequency_hz: u32,
    /// Whether to ask for kernel stacks too.
    pub kernel: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { frequency_hz: 99, kernel: true }
    }
}

/// Where a frame of a call chain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Frame {
    Kernel(u64),
    User(u64),
}

/// Perf events on every thread of a process and every CPU: a thread's event on one CPU alone can be inherited by the
/// threads it starts and still have a ring buffer.
pub struct Recorder {
    pid: i32,
    settings: Settings,
    samplers: Vec<Sampler>,
    cycles: bool,
    kernel: KernelStacks,
    stacks: HashMap<Vec<Frame>, u64>,
    maps: Vec<Mapping>,
    /// Files behind the addresses met so far: the process may be gone when their names are looked up.
    places: HashMap<u64, Option<(usize, u64)>>,
    files: Vec<std::path::PathBuf>,
    samples: u64,
    lost: u64,
    throttled: u64,
    unreadable: u64,
}

impl Recorder {
    /// Begins to sample all threads of process `pid`, except those in `but`, and the threads they will start.
    ///
    /// Takes the processor's cycles where it counts them and the kernel's cpu-clock elsewhere, kernel stacks where they
    /// are allowed.
    ///
    /// # Errors
    /// When the process is gone, or the kernel refuses even user stacks.
    pub fn attach(pid: i32, settings: Settings, but: &[i32]) -> Result<Self, ProfileError> {
        let mut recorder = Self {
            pid,
            settings,
            samplers: Vec::new(),
            cycles: true,
            kernel: if settings.kernel { KernelStacks::Recorded } else { KernelStacks::NotAsked },
            stacks: HashMap::new(),
            maps: Vec::new(),
            places: HashMap::new(),
            files: Vec::new(),
            samples: 0,
            lost: 0,
            throttled: 0,
            unreadable: 0,
        };
        let cpus = online_cpus().map_err(ProfileError::Cpus)?;
        // Listed once: a thread that is started meanwhile inherits from its parent or, if that one was not sampled yet, is
        // missed. Looking again would count the former twice.
        let all = threads(pid).map_err(|_| ProfileError::Gone { pid })?;
        for thread in all.into_iter().filter(|thread| !but.contains(thread)) {
            recorder.attach_thread(thread, &cpus)?;
        }
        if recorder.samplers.is_empty() {
            return Err(ProfileError::Gone { pid });
        }
        recorder.read_maps();
        Ok(recorder)
    }

    fn attach_thread(&mut self, thread: i32, cpus: &[usize]) -> Result<(), ProfileError> {
        for cpu in cpus {
            loop {
                match self.open(thread, *cpu) {
                    Ok(sampler) => {
                        self.samplers.push(sampler);
                        break;
                    }
                    // The thread is gone, which is no error; or the CPU went offline.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
                    Err(error) if error.raw_os_error() == Some(libc::ENODEV) && !self.cycles => break,
                    Err(error) => self.fall_back(error)?,
                }
            }
        }
        Ok(())
    }

    fn open(&self, thread: i32, cpu: usize) -> io::Result<Sampler> {
        let mut builder =
            if self.cycles { Builder::new(Hardware::CPU_CYCLES) } else { Builder::new(Software::CPU_CLOCK) };
        let kernel = self.kernel == KernelStacks::Recorded;
        builder
            .observe_pid(thread)
            .one_cpu(cpu)
            .inherit(true)
            .inherit_thread(true)
            .sample_frequency(u64::from(self.settings.frequency_hz))
            .sample(SampleFlag::CALLCHAIN)
            .sample(SampleFlag::TID)
            .exclude_kernel(!kernel)
            .exclude_callchain_kernel(!kernel)
            .exclude_hv(true)
            .enabled(true);
        let counter = builder.build()?;
        let bytes = if kernel { RING_BYTES } else { SMALL_RING_BYTES };
        counter.sampled(bytes)
    }

    /// Asks for less, if the first event could not be opened.
    fn fall_back(&mut self, source: io::Error) -> Result<(), ProfileError> {
        let (pid, first) = (self.pid, self.samplers.is_empty());
        match source.raw_os_error() {
            Some(libc::ENOENT | libc::EOPNOTSUPP | libc::ENODEV) if self.cycles && first => {
                self.cycles = false
            }
            Some(libc::ENOENT | libc::EOPNOTSUPP | libc::ENOSYS) => {
                return Err(ProfileError::Unsupported { source });
            }
            Some(libc::EACCES | libc::EPERM) if self.kernel == KernelStacks::Recorded && first => {
                self.kernel = KernelStacks::Refused { reason: refusal() };
            }
            Some(libc::EACCES) => return Err(ProfileError::Refused { pid, source }),
            Some(libc::EPERM) if first => return Err(ProfileError::Refused { pid, source }),
            _ => return Err(ProfileError::Open { pid, source }),
        }
        Ok(())
    }

    /// Takes what the kernel has sampled. To be called a few times a second: the buffers hold little more.
    pub fn drain(&mut self) {
        let mut samplers = std::mem::take(&mut self.samplers);
        let mut fresh = true;
        for sampler in &mut samplers {
            while let Some(record) = sampler.next_record() {
                match record.parse_record() {
                    Ok(PerfRecord::Sample(sample)) => self.sample(&sample, &mut fresh),
                    Ok(PerfRecord::Lost(lost)) => self.lost += lost.lost,
                    Ok(PerfRecord::LostSamples(lost)) => self.lost += lost.lost,
                    Ok(PerfRecord::Throttle(_)) => self.throttled += 1,
                    Ok(_) => {}
                    Err(_) => self.unreadable += 1,
                }
            }
        }
        self.samplers = samplers;
    }

    /// `fresh` says whether the memory map may be read again in this round.
    fn sample(&mut self, sample: &data::Sample<'_>, fresh: &mut bool) {
        self.samples += 1;
        let stack = frames(sample.callchain().unwrap_or_default());
        for frame in &stack {
            if let Frame::User(address) = *frame
                && !self.places.contains_key(&address)
            {
                if self.place(address).is_none() && std::mem::take(fresh) {
                    self.read_maps();
                }
                let place = self.place(address);
                let place = place.map(|(path, offset)| (self.file(path), offset));
                self.places.insert(address, place);
            }
        }
        *self.stacks.entry(stack).or_default() += 1;
    }

    fn place(&self, address: u64) -> Option<(std::path::PathBuf, u64)> {
        let mapping = self.maps.iter().find(|mapping| mapping.addresses.contains(&address))?;
        Some((mapping.path.clone(), mapping.file_offset(address)?))
    }

    fn file(&mut self, path: std::path::PathBuf) -> usize {
        self.files.iter().position(|file| *file == path).unwrap_or_else(|| {
            self.files.push(path);
            self.files.len() - 1
        })
    }

    /// A process that is gone leaves the map as it was.
    fn read_maps(&mut self) {
        let text = fs::read_to_string(format!("/proc/{}/maps", self.pid));
        if let Some(maps) = text.ok().and_then(|text| parse_maps(&text).ok()) {
            self.maps = maps;
        }
    }

    /// Samples, or pauses; threads started meanwhile follow.
    pub fn run(&mut self, on: bool) {
        for sampler in &mut self.samplers {
            let counter = sampler.as_counter_mut();
            // An event whose thread and CPU are gone has nothing to sample either way.
            let _ = if on { counter.enable() } else { counter.disable() };
        }
        self.drain();
    }

    /// Whether the process is still there.
    pub fn target_alive(&self) -> bool {
        threads(self.pid).is_ok()
    }

    /// Samples so far.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Samples that the kernel had no room for, so far.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// What is sampled: `cycles` or `cpu-clock`.
    pub fn event(&self) -> &'static str {
        if self.cycles { "cycles" } else { "cpu-clock" }
    }

    /// Stops, and finds the names of everything that was sampled.
    pub fn finish(mut self) -> Profile {
        for sampler in &mut self.samplers {
            // What runs on is read or dropped with the file.
            let _ = sampler.as_counter_mut().disable();
        }
        self.drain();
        self.samplers.clear();
        let symbols = Symbols::find(self.pid, self.stacks.keys().flatten(), &self.places, &self.files);
        let mut stacks = std::collections::BTreeMap::new();
        for (stack, samples) in &self.stacks {
            *stacks.entry(symbols.fold(stack)).or_default() += samples;
        }
        Profile {
            event: self.event(),
            frequency_hz: self.settings.frequency_hz,
            kernel: self.kernel.clone(),
            samples: self.samples,
            lost: self.lost,
            throttled: self.throttled,
            unreadable: self.unreadable,
            stacks,
        }
    }
}

/// The frames of a call chain, innermost first, without the markers between kernel and user.
fn frames(chain: &[u64]) -> Vec<Frame> {
    let mut kernel = false;
    let mut frames = Vec::with_capacity(chain.len());
    for address in chain {
        match *address {
            CONTEXT_KERNEL => kernel = true,
            CONTEXT_USER => kernel = false,
            // Hypervisor and guest contexts: nothing that has a name here.
            marker if marker >= MARKERS_FROM => {}
            address if kernel => frames.push(Frame::Kernel(address)),
            // All but the innermost are return addresses: the call is before them.
            address => {
                frames.push(Frame::User(if frames.is_empty() { address } else { address.saturating_sub(1) }))
            }
        }
    }
    frames
}

fn refusal() -> String {
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    format!(
        "kernel.perf_event_paranoid is {} and this user has no CAP_PERFMON",
        if level.trim().is_empty() { "unreadable" } else { level.trim() }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_tell_kernel_from_user() {
        let chain = [CONTEXT_KERNEL, 0xffff_ffff_8100_0000, CONTEXT_USER, 0x1000, 0x2000];
        let expected = [Frame::Kernel(0xffff_ffff_8100_0000), Frame::User(0xfff), Frame::User(0x1fff)];
        assert_eq!(frames(&chain), expected);
        assert_eq!(frames(&[CONTEXT_USER, 0x1000, 0]), [Frame::User(0x1000), Frame::User(0)]);
        assert!(frames(&[]).is_empty());
    }
}
