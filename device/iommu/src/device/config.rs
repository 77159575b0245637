//! Configuration space ("Device configuration layout").

use virtio_iommu_spec::{
    config::{BYPASS_OFFSET, CONFIG_BYTES, Config},
    feature,
    private::{self, F_REQUEST_QUEUES, REQUEST_QUEUES_OFFSET},
};

use super::Core;
use crate::request::RequestError;

impl Core {
    pub(super) fn config(&self) -> Config {
        let options = &self.options;
        Config {
            page_size_mask: options.page_size_mask,
            input_start: options.input_range.start(),
            input_end: options.input_range.end(),
            domain_start: options.domain_range.0,
            domain_end: options.domain_range.1,
            probe_size: if options.probe { options.probe_size } else { 0 },
            bypass: u8::from(self.bypass_field()),
        }
    }

    /// The private field as the driver reads it: 0, as what lies outside of configuration space, without the feature.
    fn request_queues_field(&self) -> u16 {
        if self.features_now() & F_REQUEST_QUEUES != 0 { self.options.request_queues } else { 0 }
    }

    pub(super) fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut bytes = [0; private::CONFIG_BYTES];
        bytes[..CONFIG_BYTES].copy_from_slice(&self.config().encode());
        bytes[REQUEST_QUEUES_OFFSET..][..2].copy_from_slice(&self.request_queues_field().to_le_bytes());
        for (i, byte) in data.iter_mut().enumerate() {
            let at = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(i));
            *byte = at.and_then(|at| bytes.get(at)).copied().unwrap_or(0);
        }
    }

    /// Only `bypass` can be written, and only to 0 or 1: "The device MUST NOT present a value different than 0 or 1 in
    /// bypass." "When the VIRTIO_IOMMU_F_BYPASS_CONFIG feature is negotiated, the driver MAY write to bypass": from FEATURES_OK
    /// on what was negotiated counts, before it the offer.
    ///
    /// # Errors
    /// When a real device may still see memory that it has lost.
    pub(super) fn write_config(&self, offset: u64, data: &[u8]) -> Result<(), RequestError> {
        let value = (BYPASS_OFFSET as u64)
            .checked_sub(offset)
            .and_then(|at| usize::try_from(at).ok())
            .and_then(|at| data.get(at).copied());
        let available = !self.options.legacy_bypass && self.features_now() & feature::BYPASS_CONFIG != 0;
        match value {
            Some(value @ (0 | 1)) if available => {
                // Under the lock to the end: an ATTACH that finds bypass off must not be answered while accesses under it run.
                let control = self.control();
                let was = self.bypass_field();
                self.set_bypass_field(value == 1);
                let rested = self.rest_all(&control);
                if was && value == 0 {
                    // Unattached endpoints lose their view of memory; accesses that began under it end first.
                    self.settle(&control, &mut super::control::Graveyard::default());
                }
                rested
            }
            _ => {
                tracing::debug!(offset, ?data, "ignored a write to configuration space");
                Ok(())
            }
        }
    }
}
