//! The device at large: sequences of bytes on a real ring, hostile ones included.

#[path = "../support/backends.rs"]
mod backends;
#[path = "../support/histories.rs"]
mod histories;
#[path = "../support/oracle.rs"]
mod oracle;
#[path = "../support/mod.rs"]
mod support;

mod bounded;
mod bypass;
mod caps;
mod chains;
mod complaints;
mod events;
mod fields;
mod golden;
mod graces;
mod hosts;
mod hotplug;
mod passthrough;
mod permissions;
mod precedence;
mod qtest;
mod queues;
mod random;
mod regions;
mod restated;
mod rings;
mod service;
mod state;
mod unmap_cases;
