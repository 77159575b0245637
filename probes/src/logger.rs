//! What the programs log, passed on to `tracing` with the probe's name.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};

/// One probe's log.
pub(crate) struct Logger(EbpfLogger<Forward>);

impl std::fmt::Debug for Logger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Logger")
    }
}

impl Logger {
    pub(crate) fn new(ebpf: &mut Ebpf, probe: &'static str) -> Option<Self> {
        match EbpfLogger::init_with_logger(ebpf, Forward { probe }) {
            Ok(logger) => Some(Self(logger)),
            Err(error) => {
                tracing::warn!(probe, %error, "the program's log cannot be read");
                None
            }
        }
    }

    pub(crate) fn flush(&mut self) {
        self.0.flush();
    }
}

struct Forward {
    probe: &'static str,
}

impl Log for Forward {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let probe = self.probe;
        match record.level() {
            log::Level::Error | log::Level::Warn => tracing::warn!(probe, "{}", record.args()),
            _ => tracing::info!(probe, "{}", record.args()),
        }
    }

    fn flush(&self) {}
}
