//! Scenarios: what is measured. TOML files, built in or the user's own, that expand to cases.
//!
//! The format, all keys and their ranges are documented in `docs/scenarios.md`.

use std::{collections::BTreeMap, fmt, path::Path, str::FromStr, time::Duration};

mod builtin;
mod check;
mod error;
mod expand;
mod keys;
mod params;
mod read;
#[cfg(test)]
mod tests;
mod value;

pub use builtin::{BUILT_IN, BuiltIn};
pub(crate) use check::largest_payload;
pub use error::{Conflict, Nearest, Place, ScenarioError};
pub use expand::{CaseSpec, MAX_CASES, MAX_ID_BYTES};
pub use keys::{Accepts, KEYS, Key};
pub use params::{Backing, DmaDirection, IotlbPages, PPM, Params, Pattern, Service, VfioForward, default_of};
pub use read::{MAX_FILE_BYTES, parse_duration};
pub use value::{Value, parse_int};

use crate::dma::Mode;

/// What the guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Test {
    /// The guest transmits as fast as the window opens.
    TcpStream,
    /// The peer transmits as fast as the window opens; the guest receives and acknowledges.
    TcpMaerts,
    /// One request outstanding per flow, a response of the same size.
    TcpRr,
    /// The guest transmits datagrams as fast as the ring takes them; nothing answers.
    UdpStream,
    /// As TCP_RR, by datagrams: no segmentation offload.
    UdpRr,
    /// DMA engines copy between guest buffers and the host.
    DmaThroughput,
    /// A DMA engine accesses a working set of pages, some of which are mapped anew all the time.
    IotlbChurn,
    /// Processors map and unmap; nothing is accessed.
    MapStorm,
    /// Random reads of a disk.
    FioRandread,
    /// Random writes of a disk.
    FioRandwrite,
    /// A process maps and unmaps memory through VFIO itself; nothing is accessed.
    VfioMap,
}

impl Test {
    /// All tests.
    pub const ALL: [Self; 11] = [
        Self::TcpStream,
        Self::TcpMaerts,
        Self::TcpRr,
        Self::UdpStream,
        Self::UdpRr,
        Self::DmaThroughput,
        Self::IotlbChurn,
        Self::MapStorm,
        Self::FioRandread,
        Self::FioRandwrite,
        Self::VfioMap,
    ];

    /// Its name, in netperf's style.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TcpStream => "TCP_STREAM",
            Self::TcpMaerts => "TCP_MAERTS",
            Self::TcpRr => "TCP_RR",
            Self::UdpStream => "UDP_STREAM",
            Self::UdpRr => "UDP_RR",
            Self::DmaThroughput => "DMA_THROUGHPUT",
            Self::IotlbChurn => "IOTLB_CHURN",
            Self::MapStorm => "MAP_STORM",
            Self::FioRandread => "FIO_RANDREAD",
            Self::FioRandwrite => "FIO_RANDWRITE",
            Self::VfioMap => "VFIO_MAP",
        }
    }

    /// Whether it is measured by transactions; the others are by throughput.
    pub const fn transacts(self) -> bool {
        matches!(self, Self::TcpRr | Self::UdpRr | Self::IotlbChurn | Self::MapStorm | Self::VfioMap)
    }

    /// What the machine must have for it.
    pub const fn device(self) -> Device {
        match self {
            Self::TcpStream | Self::TcpMaerts | Self::TcpRr | Self::UdpStream | Self::UdpRr => Device::Nic,
            Self::DmaThroughput | Self::IotlbChurn => Device::Engine,
            Self::MapStorm => Device::None,
            Self::FioRandread | Self::FioRandwrite => Device::Disk,
            Self::VfioMap => Device::Container,
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Kinds of device behind the IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    /// A network card.
    Nic,
    /// DMA engines, as many as [`Params::engines`].
    Engine,
    /// A disk of [`Params::disk_mib`].
    Disk,
    /// An endpoint that does nothing.
    None,
    /// The VFIO container of a real device, which itself does nothing.
    Container,
}

/// Where a scenario runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Machine {
    /// Guest and device in one process.
    Local,
    /// A guest under KVM.
    Kvm,
    /// Inside a guest.
    Guest,
    /// The emulated machine.
    Lab,
}

impl Machine {
    /// All machines.
    pub const ALL: [Self; 4] = [Self::Local, Self::Kvm, Self::Guest, Self::Lab];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Kvm => "kvm",
            Self::Guest => "guest",
            Self::Lab => "lab",
        }
    }
}

/// What does the DMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// A device model of this project.
    Emulated,
    /// A real device.
    Passthrough,
}

impl Endpoint {
    /// All endpoints.
    pub const ALL: [Self; 2] = [Self::Emulated, Self::Passthrough];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Emulated => "emulated",
            Self::Passthrough => "passthrough",
        }
    }
}

/// Values of one parameter, and where they were given.
#[derive(Clone, Debug, PartialEq)]
struct Axis {
    values: Vec<Value>,
    place: Place,
}

/// A scenario, validated key by key; [`expand`](Self::expand) validates the combinations.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// One line on what it measures.
    pub summary: String,
    /// Where it runs unless the user says otherwise.
    pub machine: Machine,
    /// Tests, in the order given.
    pub tests: Vec<Test>,
    /// Modes, in the order given; the first is the baseline of ratios.
    pub modes: Vec<Mode>,
    /// Endpoints, in the order given.
    pub endpoints: Vec<Endpoint>,
    /// Measured time of each case.
    pub duration: Duration,
    /// Seed of every random choice.
    pub seed: u64,
    /// The text it was read from.
    pub text: String,
    place: Place,
    /// Parameters by test (`None`: every test) and name.
    axes: BTreeMap<(Option<Test>, &'static str), Axis>,
}

impl Scenario {
    /// Reads a scenario; `source` names it in errors.
    ///
    /// # Errors
    /// When it is not TOML, or a key or a value is not accepted.
    pub fn parse(source: &str, text: &str) -> Result<Self, ScenarioError> {
        read::scenario(source, text)
    }

    /// A built-in scenario by name.
    ///
    /// # Errors
    /// When there is none, naming the nearest.
    pub fn built_in(name: &str) -> Result<Self, ScenarioError> {
        let found = BUILT_IN.iter().find(|scenario| scenario.name == name);
        let scenario = found.ok_or_else(|| builtin::unknown(name))?;
        Self::parse(scenario.name, scenario.text)
    }

    /// The user's own scenario.
    ///
    /// # Errors
    /// When it cannot be read, and as [`parse`](Self::parse).
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        read::load(path)
    }

    /// What the user named: a built-in scenario, or the path of a file (ends in `.toml` or contains a `/`).
    ///
    /// # Errors
    /// As [`built_in`](Self::built_in) or [`load`](Self::load).
    pub fn find(name: &str) -> Result<Self, ScenarioError> {
        if name.ends_with(".toml") || name.contains('/') {
            Self::load(Path::new(name))
        } else {
            Self::built_in(name)
        }
    }

    /// Applies `--set KEY=VALUE`: `tests`, `modes`, `endpoints`, `machine`, `duration`, `seed` or a parameter, for all
    /// tests (`message_bytes=64K`) or one (`TCP_RR.message_bytes=1`). Several values are separated by commas.
    ///
    /// # Errors
    /// When it is not KEY=VALUE, or key or value is not accepted; the scenario is unchanged then.
    pub fn set(&mut self, argument: &str) -> Result<(), ScenarioError> {
        read::set(self, argument)
    }

    /// The values that a parameter has for a test, or for those about which nothing special is said; none where it has its
    /// default.
    pub fn values(&self, test: Option<Test>, name: &str) -> &[Value] {
        let key = |test| {
            let found = self.axes.iter().find(|((of, key), _)| *of == test && *key == name);
            found.map(|(_, axis)| axis.values.as_slice())
        };
        key(test).or_else(|| key(None)).unwrap_or_default()
    }

    /// All cases, in a fixed order: by test, parameters, endpoint, mode.
    ///
    /// # Errors
    /// When parameters exclude each other, or there are more than [`MAX_CASES`] cases.
    pub fn expand(&self) -> Result<Vec<CaseSpec>, ScenarioError> {
        expand::expand(self)
    }
}

impl FromStr for Scenario {
    type Err = ScenarioError;

    fn from_str(text: &str) -> Result<Self, ScenarioError> {
        Self::parse("scenario", text)
    }
}
