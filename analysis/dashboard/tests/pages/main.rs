//! Pages of the dashboard and the trends on them.

mod browser;
mod common;
mod directions;
mod site;
mod trend;
