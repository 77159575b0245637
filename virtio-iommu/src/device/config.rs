//! Configuration space ("Device configuration layout").

use virtio_iommu_spec::{
    config::{BYPASS_OFFSET, CONFIG_BYTES, Config},
    feature,
};

use super::Core;

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

    pub(super) fn read_config(&self, offset: u64, data: &mut [u8]) {
        let bytes = self.config().encode();
        for (i, byte) in data.iter_mut().enumerate() {
            let at = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(i));
            *byte = at.filter(|at| *at < CONFIG_BYTES).map_or(0, |at| bytes[at]);
        }
    }

    /// Only `bypass` can be written, and only to 0 or 1: "The device MUST NOT present a value different than 0 or 1 in
    /// bypass." Before DRIVER_OK what was negotiated is not known yet, and the offer counts.
    pub(super) fn write_config(&self, offset: u64, data: &[u8]) {
        let value = (BYPASS_OFFSET as u64)
            .checked_sub(offset)
            .and_then(|at| usize::try_from(at).ok())
            .and_then(|at| data.get(at).copied());
        let negotiated = self.negotiated();
        let available =
            !self.options.legacy_bypass && (negotiated == 0 || negotiated & feature::BYPASS_CONFIG != 0);
        match value {
            Some(value @ (0 | 1)) if available => {
                let was = self.bypass_field();
                self.set_bypass_field(value == 1);
                if was && value == 0 {
                    // Unattached endpoints lose their view of memory; accesses that began under it end first.
                    self.settle(&self.control(), &mut super::control::Graveyard::default());
                }
            }
            _ => tracing::debug!(offset, ?data, "ignored a write to configuration space"),
        }
    }
}
