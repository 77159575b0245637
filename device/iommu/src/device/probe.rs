//! PROBE: the properties of an endpoint.

use virtio_iommu_spec::{EndpointId, request};

use super::Core;
use crate::request::RequestError;

impl Core {
    /// Fills `properties`, everything before the tail, which is zero already.
    ///
    /// "If the properties list is smaller than probe_size, the device SHOULD NOT write any property. It SHOULD reject the
    /// request and set status to VIRTIO_IOMMU_S_INVAL."
    pub(super) fn probe(&self, request: &request::Probe, properties: &mut [u8]) -> Result<(), RequestError> {
        // "The device MUST ignore field reserved of a PROBE request."
        let endpoint = EndpointId(request.endpoint);
        let control = self.control();
        let slot = control.endpoints.get(&endpoint).ok_or(RequestError::NoEndpoint { endpoint })?;
        let (have, need) = (properties.len() as u64, self.options.probe_size);
        if have < u64::from(need) {
            return Err(RequestError::ProbeTooSmall { have, need });
        }
        // `Device::add_endpoint` has made sure that they fit.
        let mut rest = properties;
        for property in slot.state.properties.regions.encode() {
            let Some((head, tail)) = rest.split_at_mut_checked(property.len()) else { break };
            head.copy_from_slice(&property);
            rest = tail;
        }
        Ok(())
    }
}
