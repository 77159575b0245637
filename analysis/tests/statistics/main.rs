//! Statistics, parsers and reports, each module against an oracle or an invented run.

mod against_scipy;
mod artefacts;
mod calibrate;
mod changepoint;
mod common;
mod comparison;
mod fixtures;
mod parsers;
mod report;
mod stats;
mod terminal;
