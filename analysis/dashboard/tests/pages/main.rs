//! Pages of the dashboard and the trends on them.

mod browser;
mod common;
mod site;
mod trend;
