//! This project's device, served inline.

use std::sync::Arc;

use virtio_iommu::{
    Device, DeviceOptions, EndpointPort,
    device::F_EVENT_IDX,
    iotlb::IotlbOptions,
    memory::GuestRam,
    spec::{EndpointId, REQUEST_QUEUE},
};
use virtio_transport::{Activation, NoInterrupt, VirtioDevice};

use super::{Driver, RigError, Served, attach_request};

/// Where guest memory is free for endpoints' buffers.
pub const BUFFERS: u64 = 16 << 20;

const ENDPOINT: u32 = 8;

/// The device with one endpoint, attached to domain [`Ours::DOMAIN`], and one ring.
pub struct Ours {
    device: Device,
    driver: Driver,
}

impl Ours {
    /// The domain in use.
    pub const DOMAIN: u32 = 1;

    /// A device whose driver has attached the endpoint. Neither side uses event indices.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn new() -> Result<Self, RigError> {
        Self::with_iotlb(None)
    }

    /// As [`new`](Self::new), with IOTLBs.
    ///
    /// # Errors
    /// When there is not enough memory, or the shape makes no sense.
    pub fn with_iotlb(iotlb: Option<IotlbOptions>) -> Result<Self, RigError> {
        let driver = Driver::new()?;
        let options = DeviceOptions { boot_bypass: false, iotlb, ..DeviceOptions::default() };
        let device = Device::new(options, GuestRam::new(driver.ram().clone())?)?;
        device.add_emulated_endpoint(EndpointId(ENDPOINT))?;
        let features = device.features() & !F_EVENT_IDX;
        device.activate(Activation { features, queues: vec![driver.layout()] }, Arc::new(NoInterrupt))?;
        let mut ours = Self { device, driver };
        ours.batch([attach_request(Self::DOMAIN, ENDPOINT).as_slice()].into_iter())?;
        Ok(ours)
    }

    /// The endpoint's way to memory.
    ///
    /// # Errors
    /// When too many have been handed out.
    pub fn port(&self) -> Result<EndpointPort, RigError> {
        Ok(self.device.endpoint_port(EndpointId(ENDPOINT))?)
    }
}

impl Served for Ours {
    fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    #[inline]
    fn serve(&mut self) -> Result<(), RigError> {
        self.device.notify(REQUEST_QUEUE);
        Ok(())
    }
}
