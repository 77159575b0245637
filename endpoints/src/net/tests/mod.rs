//! The device against a driver's rings laid out by hand in guest memory.

mod hostile;
mod rig;
mod traffic;
