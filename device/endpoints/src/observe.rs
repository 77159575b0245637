//! DMA latencies, for who wants them: the endpoints know no clock.

/// Which way a frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The device read it from guest memory.
    FromGuest,
    /// The device wrote it to guest memory.
    ToGuest,
}

/// Told of every frame's DMA: translation and copy of header and payload, without rings or checksums.
pub trait DmaObserver: Send + 'static {
    /// Whether the device looks at the clock at all.
    const ENABLED: bool = true;

    /// The time, in whatever unit the observer wants (TSC ticks, virtual time).
    fn now(&self) -> u64;

    /// A frame with `payload_bytes` was moved in `ticks`.
    fn frame(&mut self, direction: Direction, payload_bytes: u64, ticks: u64);
}

/// Nobody watches; costs nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl DmaObserver for NoObserver {
    const ENABLED: bool = false;

    #[inline]
    fn now(&self) -> u64 {
        0
    }

    #[inline]
    fn frame(&mut self, _direction: Direction, _payload_bytes: u64, _ticks: u64) {}
}

/// An observer made of a clock and a sink.
#[derive(Clone, Copy, Debug)]
pub struct Stamped<C, S> {
    clock: C,
    sink: S,
}

impl<C, S> Stamped<C, S>
where
    C: Fn() -> u64 + Send + 'static,
    S: FnMut(Direction, u64, u64) + Send + 'static,
{
    /// Calls `sink` with direction, payload bytes and the difference of two readings of `clock`.
    pub fn new(clock: C, sink: S) -> Self {
        Self { clock, sink }
    }
}

impl<C, S> DmaObserver for Stamped<C, S>
where
    C: Fn() -> u64 + Send + 'static,
    S: FnMut(Direction, u64, u64) + Send + 'static,
{
    #[inline]
    fn now(&self) -> u64 {
        (self.clock)()
    }

    #[inline]
    fn frame(&mut self, direction: Direction, payload_bytes: u64, ticks: u64) {
        (self.sink)(direction, payload_bytes, ticks);
    }
}
