//! A look at the service from outside: the device knows no clock, whoever measures brings one.

/// Told when a batch and the grace period in it begin and end, on the thread that serves.
pub trait ServiceObserver: Send {
    /// A batch is about to be served.
    fn batch_begin(&mut self) {}
    /// The batch removed something; the wait for accesses under it begins.
    fn grace_begin(&mut self) {}
    /// The wait is over.
    fn grace_end(&mut self) {}
    /// The used ring was published. `requests` chains were returned.
    fn batch_end(&mut self, requests: u32) {
        let _ = requests;
    }
}
