//! The device at large: sequences of bytes on a real ring, hostile ones included.

#[path = "../support/mod.rs"]
mod support;

mod smoke;
