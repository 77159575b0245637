//! The static site of a store: histories with change points, a page for each run, any two runs side by side.
//!
//! [`build`] reads a store through its [survey](iommu_results::survey), one run at a time, and writes a folder that a
//! browser opens from a disk or a web server alike: no server, nothing from outside, data in script files that are loaded
//! when they are looked at. What is not sound is left out and named on the page about data quality.
//!
//! - [`history`]: the values of each figure over the runs.
//! - [`trend`]: change points of a history, and the verdict on its newest part.
//! - [`revisions`]: what git knows about the revisions that runs name.
//! - [`site`]: the files.

pub mod history;
pub mod revisions;
pub mod site;
pub mod trend;

mod assets;
mod data;
mod quality;

pub use site::{Built, Options, Progress, SiteError, build};
