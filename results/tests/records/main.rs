//! Records of runs: the store, its survey, artefacts and environments.

mod artefacts;
mod common;
mod environment;
mod metrics;
mod store;
mod survey;
