//! The scenarios that come with the program.

use super::{Nearest, ScenarioError};

/// A scenario that comes with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuiltIn {
    /// Its name.
    pub name: &'static str,
    /// The TOML text.
    pub text: &'static str,
}

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        [$(BuiltIn { name: $name, text: include_str!(concat!("../../scenarios/", $name, ".toml")) }),*]
    };
}

/// All of them, in the order they are listed.
pub const BUILT_IN: [BuiltIn; 12] = built_in![
    "netperf-strict",
    "netperf-lazy",
    "netperf-identity",
    "netperf-matrix",
    "dma-throughput",
    "map-storm",
    "iotlb-churn",
    "fio-randread-4k",
    "fio-randread-64k",
    "fio-randwrite-4k",
    "fio-randwrite-64k",
    "vfio-map",
];

pub(super) fn unknown(name: &str) -> ScenarioError {
    let names = BUILT_IN.map(|scenario| scenario.name);
    ScenarioError::Unknown {
        name: name.to_owned(),
        nearest: Nearest::of(name, names),
        known: names.join(", "),
    }
}
