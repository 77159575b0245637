//! The conformance suite of `device/iommu/tests/conformance`, through registers: of a virtio-pci function in this process
//! ([`virtio_pci`]), and of one behind a vfio-user socket ([`vfio_user`]), with guest memory shared by descriptor.
//!
//! All tests of the suite run on both. Where the driver sees less than a test that calls the device itself, see
//! `BESIDE_THE_TRANSPORT` in `dev/xtask/src/conformance.rs`.
//!
//! [`traffic`] resets the machine while the device works.

#![allow(clippy::duplicate_mod, reason = "one suite, two transports")]

#[path = "../../../iommu/tests/support/mod.rs"]
mod generic;

mod driver;
mod traffic;
mod vfio_user;
mod virtio_pci;
