//! The device against a driver's rings laid out by hand in guest memory.

mod hostile;
mod pairs;
mod platform;
mod rig;
mod traffic;
