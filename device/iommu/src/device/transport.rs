//! The device as its owner and the transport see it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use virtio_iommu_spec::{
    DEVICE_ID, EVENT_QUEUE, EndpointId,
    private::{lane_of, request_queue},
};
use virtio_transport::{
    ActivateError, Activation, Interrupt, QueueLayout, Service, ServiceError, VirtioDevice,
};

use super::{
    Core, Counters, DeviceOptions, F_EVENT_IDX, F_INDIRECT_DESC, OptionsError, ServiceObserver,
    control::Graveyard, core::EndpointSlot, worker::RequestWorker,
};
use crate::{
    domain::DomainLimits,
    endpoint::{Attachment, EndpointPort, EndpointState, PortError},
    epoch::TooManyParticipants,
    fault::FaultListener,
    memory::GuestRam,
    passthrough::Backend,
    properties::{EndpointProperties, Incompatible},
    queue::{Queue, QueueError},
    state::{self, QueueState, RestoreError, SaveError, State},
    sync::Ordering,
};

/// Why a device cannot be built.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The options make no sense.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// No service.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// No participant for the device itself.
    #[error(transparent)]
    TooManyParticipants(#[from] TooManyParticipants),
}

/// The virtio-iommu device.
///
/// ```
/// use std::sync::Arc;
/// use virtio_iommu::{Device, DeviceOptions, memory::GuestRam, spec::EndpointId};
/// use vm_memory::{GuestAddress, GuestMemoryMmap};
///
/// let ram = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap());
/// let device = Device::new(DeviceOptions::default(), GuestRam::new(ram).unwrap()).unwrap();
/// device.add_emulated_endpoint(EndpointId(8)).unwrap();
/// let port = device.endpoint_port(EndpointId(8)).unwrap();
/// // Boot bypass: until a driver attaches the endpoint, addresses pass one to one.
/// use virtio_iommu::dma::DmaMemory;
/// port.pin().write(0x1000, b"hello").unwrap();
/// ```
pub struct Device {
    core: Arc<Core>,
    /// One for each request queue.
    services: Box<[Service]>,
    queue_sizes: Box<[u16]>,
    running: Mutex<Option<Running>>,
}

/// Tables that a reset looks at to empty the domains, some 20 ms of work; a request queue does the rest later.
const TABLES_OF_A_RESET: u64 = 4096;

/// What the driver started the device with.
struct Running {
    activation: Activation,
    interrupt: Arc<dyn Interrupt>,
    paused: bool,
}

impl Device {
    /// A device without endpoints.
    ///
    /// # Errors
    /// When the options make no sense, or the service cannot be set up.
    pub fn new(options: DeviceOptions, ram: GuestRam) -> Result<Self, DeviceError> {
        options.check()?;
        let service = |lane| {
            let name = if lane == 0 { "viommu".to_owned() } else { format!("viommu-{lane}") };
            Service::new(name, options.service)
        };
        let services = (0..options.request_queues).map(service).collect::<Result<_, _>>()?;
        let queue_sizes = options.queue_max_sizes();
        let core = Arc::new(Core::new(options, ram)?);
        Ok(Self { core, services, queue_sizes, running: Mutex::new(None) })
    }

    /// What it was built with.
    pub fn options(&self) -> &DeviceOptions {
        &self.core.options
    }

    /// Adds an endpoint with the platform's properties for an emulated device.
    ///
    /// # Errors
    /// As [`add_endpoint`](Self::add_endpoint).
    pub fn add_emulated_endpoint(&self, id: EndpointId) -> Result<(), OptionsError> {
        self.add_endpoint(id, self.core.options.platform.endpoint())
    }

    /// Adds an endpoint, at any time.
    ///
    /// # Errors
    /// When the ID is taken, the properties do not fit into `probe_size`, or leave nothing to translate.
    pub fn add_endpoint(&self, id: EndpointId, properties: EndpointProperties) -> Result<(), OptionsError> {
        self.add(id, properties, None)
    }

    /// Adds a real device, at any time. `backend` shows it what its domain maps; until it is attached, all of guest
    /// memory while unattached endpoints bypass the IOMMU, and nothing otherwise.
    ///
    /// # Errors
    /// As [`add_endpoint`](Self::add_endpoint).
    pub fn add_passthrough_endpoint(
        &self,
        id: EndpointId,
        properties: EndpointProperties,
        backend: Arc<dyn Backend>,
    ) -> Result<(), OptionsError> {
        self.add(id, properties, Some(backend))
    }

    fn add(
        &self,
        id: EndpointId,
        properties: EndpointProperties,
        backend: Option<Arc<dyn Backend>>,
    ) -> Result<(), OptionsError> {
        let (bytes, probe_size) = (properties.regions.wire_bytes(), self.core.options.probe_size);
        if bytes > probe_size as usize {
            return Err(OptionsError::TooManyRegions { endpoint: id, bytes, probe_size });
        }
        let no_pages = properties.page_size_mask == Some(0);
        let state = Arc::new(EndpointState::new(id, properties, backend));
        if no_pages || self.core.limits_of(&state).is_err() {
            return Err(OptionsError::EmptyProperties { endpoint: id });
        }
        let mut control = self.core.control();
        if control.endpoints.contains_key(&id) {
            return Err(OptionsError::Exists { endpoint: id });
        }
        // Logged; an endpoint that sees more than it should stays blocked until that is taken away.
        let _ = self.core.rest(&state);
        control.endpoints.insert(id, EndpointSlot { state, domain: None });
        Ok(())
    }

    /// Removes an endpoint: it is detached, and its ports refuse every access from then on. Returns `false` when there
    /// is no such endpoint, or when the host cannot take everything away from a real device: that one is detached and
    /// stays, and the caller tries again. When it returns `true`, no access of the endpoint still runs, unless one is
    /// stuck.
    pub fn remove_endpoint(&self, id: EndpointId) -> bool {
        let mut control = self.core.control();
        let Some(slot) = control.endpoints.get(&id) else { return false };
        let (state, domain) = (slot.state.clone(), slot.domain);
        let mut graveyard = Graveyard::default();
        let mut taken = Ok(());
        if let (Some(mirror), Some(slot)) = (&state.mirror, domain.and_then(|id| control.domains.get(&id))) {
            taken = slot.domain.mirrors.lock().dismiss(mirror);
        } else if let Some(mirror) = &state.mirror {
            taken = mirror.clear();
        }
        let attachment = if taken.is_ok() { Attachment::Gone } else { Attachment::Detached };
        state.attachment.replace(attachment, &control.participant.pin());
        if let Some(domain) = domain {
            self.core.leave(&mut control, None, &mut graveyard, id, domain);
        }
        if let Err(error) = &taken {
            tracing::error!(endpoint = %id, %error, "the endpoint cannot be removed");
        } else {
            control.endpoints.remove(&id);
        }
        self.core.settle(&control, &mut graveyard);
        taken.is_ok()
    }

    /// An endpoint's way to memory.
    ///
    /// # Errors
    /// When there is no such endpoint, or too many threads take part already.
    pub fn endpoint_port(&self, id: EndpointId) -> Result<EndpointPort, PortError> {
        let state = self.core.control().endpoints.get(&id).map(|slot| slot.state.clone());
        let state = state.ok_or(PortError::NoEndpoint { endpoint: id })?;
        Ok(EndpointPort::new(self.core.clone(), state, self.core.ram.clone())?)
    }

    /// As [`endpoint_port`](Self::endpoint_port), for an endpoint that reaches guest memory by a way of its own: what
    /// the device translates to is looked up in `ram`.
    ///
    /// # Errors
    /// As [`endpoint_port`](Self::endpoint_port).
    pub fn endpoint_port_to(&self, id: EndpointId, ram: GuestRam) -> Result<EndpointPort, PortError> {
        let state = self.core.control().endpoints.get(&id).map(|slot| slot.state.clone());
        let state = state.ok_or(PortError::NoEndpoint { endpoint: id })?;
        Ok(EndpointPort::new(self.core.clone(), state, ram)?)
    }

    /// What an endpoint and the device can both translate.
    ///
    /// # Errors
    /// When there is no such endpoint.
    pub fn endpoint_limits(&self, id: EndpointId) -> Result<Result<DomainLimits, Incompatible>, PortError> {
        let state = self.core.control().endpoints.get(&id).map(|slot| slot.state.clone());
        let state = state.ok_or(PortError::NoEndpoint { endpoint: id })?;
        Ok(self.core.limits_of(&state))
    }

    /// Brings a clock: each request queue takes up an observer when the driver starts the device. `observer` makes one
    /// for each, which is given the queue's number, counted from 0.
    pub fn set_observers(&self, mut observer: impl FnMut(u16) -> Box<dyn ServiceObserver>) {
        for (lane, number) in self.core.lanes.iter().zip(0..) {
            *lane.observer() = Some(observer(number));
        }
    }

    /// Brings somebody who hears of every fault; `false` when there is one already.
    pub fn set_fault_listener(&self, listener: Box<dyn FaultListener>) -> bool {
        self.core.faults.listen(listener)
    }

    /// Takes the observer of the first request queue back; `None` while a worker has it (reset the device first).
    pub fn take_observer(&self) -> Option<Box<dyn ServiceObserver>> {
        self.core.lanes[0].observer().take()
    }

    /// Counters now, those of all request queues added up. They are exact once the device is idle.
    pub fn counters(&self) -> Counters {
        let mut total = Counters {
            mappings_reserved: self.core.pool.taken(),
            faults: self.core.faults.counts(),
            iotlb: self.core.iotlbs.total(),
            ..Counters::default()
        };
        self.queue_counters().for_each(|queue| total.add_queue(&queue));
        total
    }

    /// What each request queue counted, by its number; the counts that are the whole device's are 0.
    pub fn queue_counters(&self) -> impl Iterator<Item = Counters> {
        let lanes = self.core.lanes.iter().zip(&self.services);
        lanes.map(|(lane, service)| Counters { kicks: service.kicks(), ..lane.counters.snapshot() })
    }

    /// Memory of all mapping tables, in bytes.
    pub fn table_bytes(&self) -> u64 {
        use crate::table::MappingTable;
        let control = self.core.control();
        control
            .domains
            .values()
            .filter_map(|slot| slot.domain.table().ok())
            .map(MappingTable::table_bytes)
            .sum()
    }

    /// Number of domains.
    pub fn domains(&self) -> usize {
        self.core.control().domains.len()
    }

    /// Why the device needs a reset, if a worker failed.
    pub fn failure(&self) -> Option<String> {
        self.services.iter().find_map(Service::failed)
    }

    /// Stops serving requests, for [`save`](Self::save): what the driver queues waits. Faults are still reported.
    pub fn pause(&self) {
        let mut running = self.running();
        self.core.halt.pause();
        self.services.iter().for_each(Service::stop);
        self.core.halt.go();
        if let Some(running) = &mut *running {
            running.paused = true;
        }
    }

    /// Takes up service after [`pause`](Self::pause).
    ///
    /// # Errors
    /// When the service cannot be started; the device needs a reset then.
    pub fn resume(&self) -> Result<(), ActivateError> {
        let mut running = self.running();
        let Some(Running { activation, interrupt, paused }) = &mut *running else { return Ok(()) };
        if *paused {
            let indices = |index| self.core.lanes[usize::from(lane_of(index)?)].indices();
            let workers = self.workers(activation, interrupt, indices);
            workers.and_then(|workers| self.serve_requests(workers, interrupt)).map_err(activate_error)?;
            *paused = false;
            self.look();
        }
        Ok(())
    }

    /// The state, to be [`restore`](Self::restore)d into another device. Endpoints should be quiet: faults that have not
    /// reached the driver are not part of it.
    ///
    /// # Errors
    /// When requests are being served ([`pause`](Self::pause) first), or an endpoint is a real device.
    pub fn save(&self) -> Result<State, SaveError> {
        let running = self.running();
        if self.core.control().endpoints.values().any(|slot| slot.state.mirror.is_some()) {
            return Err(SaveError::Passthrough);
        }
        match &*running {
            Some(running) if !running.paused => Err(SaveError::Running),
            Some(running) => Ok(state::save(&self.core, &running.activation.queues)),
            None => Ok(state::save(&self.core, &[])),
        }
    }

    /// Puts a saved state into a device that has the same options and endpoints and is not in use, and takes up
    /// service where it was left.
    ///
    /// # Errors
    /// When the state does not fit, or an endpoint is a real device: no state holds what one sees. Then nothing of it has
    /// been taken over.
    pub fn restore(&self, state: &State, interrupt: Arc<dyn Interrupt>) -> Result<(), RestoreError> {
        let mut running = self.running();
        if running.is_some() || self.domains() != 0 {
            return Err(RestoreError::InUse);
        }
        let built = state::build(&self.core, state)?;
        let activation = self.check_queues(state)?;
        let bypass = self.core.bypass_field();
        built.install(&self.core, state)?;
        let Some(activation) = activation else { return Ok(()) };
        if let Err(error) = self.start(&activation, &interrupt, Some(state)) {
            self.stop();
            // No endpoint is a real device, so the field is all that has to be put back.
            if !self.core.options.legacy_bypass {
                self.core.set_bypass_field(bypass);
            }
            return Err(activate_error(error).into());
        }
        *running = Some(Running { activation, interrupt, paused: false });
        self.look();
        Ok(())
    }

    /// Lets every worker look at its queue: kicks while nobody served are lost otherwise.
    fn look(&self) {
        self.services.iter().for_each(Service::notify);
    }

    /// The queues of a state, if it was taken after DRIVER_OK.
    fn check_queues(&self, state: &State) -> Result<Option<Activation>, RestoreError> {
        let mut queues: Vec<QueueLayout> = Vec::new();
        for saved in &state.queues {
            let QueueState { index, size, desc, avail, used, .. } = *saved;
            let layout = QueueLayout { index, size, desc, avail, used };
            let count = self.queue_count(state.negotiated);
            let max = self.queue_sizes[..count].get(usize::from(index)).copied().unwrap_or(0);
            if size > max || queues.iter().any(|queue| queue.index == index) {
                return Err(RestoreError::Queue { index, source: None });
            }
            self.queue(&layout, state.negotiated)
                .map_err(|source| RestoreError::Queue { index, source: Some(source) })?;
            queues.push(layout);
        }
        let active = state.negotiated != 0;
        match queues.first() {
            Some(queue) if !active => Err(RestoreError::Queue { index: queue.index, source: None }),
            _ => Ok(active.then_some(Activation { features: state.negotiated, queues })),
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, layout: &QueueLayout, features: u64) -> Result<Queue, QueueError> {
        let mut queue = Queue::new(layout, features & F_EVENT_IDX != 0)?;
        if features & F_INDIRECT_DESC != 0 {
            queue.allow_indirect();
        }
        queue.check(&self.core.ram)?;
        Ok(queue)
    }

    fn start(
        &self,
        activation: &Activation,
        interrupt: &Arc<dyn Interrupt>,
        saved: Option<&State>,
    ) -> Result<(), StartError> {
        let features = activation.features;
        let indices = |index| {
            let queue = saved?.queues.iter().find(|queue| queue.index == index)?;
            Some((queue.next_avail, queue.next_used))
        };
        self.core.set_negotiated(features);
        if self.core.options.legacy_bypass {
            // Bypass begins with what was negotiated. An endpoint that sees less is logged.
            let _ = self.core.rest_all(&self.core.control());
        }
        // All that can fail comes first: where one queue cannot be served, none is.
        let workers = self.workers(activation, interrupt, indices)?;
        if let Some(layout) = activation.queues.iter().find(|layout| layout.index == EVENT_QUEUE) {
            self.core.faults.activate(self.queue(layout, features)?, interrupt.clone());
            if let Some(indices) = indices(EVENT_QUEUE) {
                self.core.faults.set_indices(indices);
            }
        }
        self.serve_requests(workers, interrupt)
    }

    /// A worker for each request queue that is ready; `indices` says where a queue, by its index, stands.
    fn workers(
        &self,
        activation: &Activation,
        interrupt: &Arc<dyn Interrupt>,
        indices: impl Fn(u16) -> Option<(u16, u16)>,
    ) -> Result<Vec<(&Service, RequestWorker)>, StartError> {
        let features = activation.features;
        let mut workers = Vec::new();
        for (lane, service) in (0..self.core.request_queues(features)).zip(&self.services) {
            let index = request_queue(lane);
            let Some(layout) = activation.queues.iter().find(|layout| layout.index == index) else {
                continue;
            };
            let mut queue = self.queue(layout, features)?;
            if let Some((avail, used)) = indices(index) {
                queue.set_indices(avail, used);
            }
            let (core, participant) = (self.core.clone(), self.core.epoch.register()?);
            let worker = RequestWorker::new(core, lane, participant, queue, features, interrupt.clone());
            workers.push((service, worker));
        }
        Ok(workers)
    }

    fn serve_requests(
        &self,
        workers: Vec<(&Service, RequestWorker)>,
        interrupt: &Arc<dyn Interrupt>,
    ) -> Result<(), StartError> {
        workers.into_iter().try_for_each(|(service, worker)| {
            service.start(Box::new(worker), interrupt.clone()).map_err(StartError::from)
        })
    }

    /// No queue is touched any more, no endpoint is attached. Requests that are being served are left unfinished, and
    /// domains with many mappings are emptied later.
    fn stop(&self) {
        self.core.halt.stop();
        self.services.iter().for_each(Service::stop);
        self.core.faults.deactivate();
        self.core.set_negotiated(0);
        self.core.halt.stop_after(TABLES_OF_A_RESET);
        let ended = self.core.detach_all();
        // With an access that has not ended, the next driver is told so: its reset waits for that access again.
        self.core.broken.store(!ended, Ordering::Release);
        self.core.halt.go();
    }
}

fn activate_error(error: StartError) -> ActivateError {
    ActivateError { device: "virtio-iommu", reason: error.to_string() }
}

/// Why the device cannot start.
#[derive(Debug, Error)]
enum StartError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error(transparent)]
    TooManyParticipants(#[from] TooManyParticipants),
}

impl VirtioDevice for Device {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    fn features(&self) -> u64 {
        self.core.options.features()
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features_ok(&self, features: u64) {
        self.core.set_agreed(features);
    }

    /// Without the private feature there are the two queues of the specification.
    fn queue_count(&self, features: u64) -> usize {
        usize::from(self.core.request_queues(features)) + 1
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.core.read_config(offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        if self.core.write_config(offset, data).is_err() {
            // There is no other way to say so: "the device SHOULD set DEVICE_NEEDS_RESET when it enters an error state".
            self.core.broken.store(true, Ordering::Release);
            if let Some(running) = &*self.running() {
                running.interrupt.config();
            }
        }
    }

    fn activate(&self, activation: Activation, interrupt: Arc<dyn Interrupt>) -> Result<(), ActivateError> {
        let mut running = self.running();
        if let Err(error) = self.start(&activation, &interrupt, None) {
            // Of several queues some may be served already.
            self.stop();
            return Err(activate_error(error));
        }
        *running = Some(Running { activation, interrupt, paused: false });
        Ok(())
    }

    #[inline]
    fn notify(&self, index: u16) {
        match lane_of(index) {
            Some(0) => self.services[0].notify(),
            Some(lane) if lane < self.core.request_queues(self.core.negotiated()) => {
                self.services[usize::from(lane)].notify();
            }
            Some(_) => {}
            None => self.core.faults.serve(),
        }
    }

    /// "When the device is reset, endpoints are not attached to any domain." The `bypass` field stays.
    fn reset(&self) {
        let mut running = self.running();
        self.stop();
        // Not where DRIVER_OK fails: what FEATURES_OK said holds until the reset.
        self.core.set_agreed(0);
        *running = None;
    }

    /// System reset: as [`reset`](Self::reset), and `bypass` is back at its initial value: it "SHOULD NOT change
    /// on device reset, but SHOULD be restored to its initial value on system reset".
    fn system_reset(&self) {
        self.reset();
        let control = self.core.control();
        self.core.set_bypass_field(self.core.options.boot_bypass);
        if self.core.rest_all(&control).is_err() {
            self.core.broken.store(true, Ordering::Release);
        }
        // Accesses under bypass end before firmware or another driver takes the machine over.
        self.core.settle(&control, &mut Graveyard::default());
    }

    fn needs_reset(&self) -> bool {
        self.core.broken.load(Ordering::Acquire) || self.core.faults.is_broken() || self.failure().is_some()
    }
}
