//! One test for each normative statement that binds a device, named after the clause it shows.
//!
//! The line `clause: ID "sentence"` in a test's documentation ties it to `docs/conformance/statements.toml`;
//! `cargo xtask conformance` fails when a statement has no test, a test no statement, or the two sentences differ.

#[path = "../support/mod.rs"]
mod support;

mod attach;
mod config;
mod detach;
mod fault;
mod features;
mod map;
mod operations;
mod probe;
mod resv_mem;
mod unmap;
