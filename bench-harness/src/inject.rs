//! Failures that tests provoke through the environment, so that no user meets them in help or completions.

use crate::failure::Failure;

/// Name of the variable.
const VARIABLE: &str = "IOMMU_BENCH_INJECT";

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inject {
    /// The driver thread panics after a few slices.
    DriverPanic,
    /// The endpoint's service panics after a while.
    ServicePanic,
    /// The driver thread never comes back from a slice.
    Hang,
    /// A payload byte changes on its way.
    Corrupt,
}

/// What the environment asks for.
///
/// # Errors
/// When it asks for something unknown: a test that provokes nothing would prove nothing.
pub(crate) fn from_environment() -> Result<Option<Inject>, Failure> {
    match std::env::var(VARIABLE).as_deref() {
        Err(_) => Ok(None),
        Ok("driver-panic") => Ok(Some(Inject::DriverPanic)),
        Ok("service-panic") => Ok(Some(Inject::ServicePanic)),
        Ok("hang") => Ok(Some(Inject::Hang)),
        Ok("corrupt") => Ok(Some(Inject::Corrupt)),
        Ok(other) => Err(Failure::usage(format!("{VARIABLE}: `{other}` is no failure to provoke"))),
    }
}
