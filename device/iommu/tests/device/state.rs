//! Saving, restoring, and refusing to restore.

use std::sync::Arc;

use virtio_iommu::{
    Device, DeviceOptions,
    memory::GuestRam,
    properties::{EndpointProperties, Regions, ResvKind, ResvRegion},
    spec::{EndpointId, IovaRange, Status, feature, request::ATTACH_F_BYPASS},
    state::{FormatError, RestoreError, SaveError, State, decode, encode},
};
use virtio_transport::VirtioDevice;

use crate::{backends::Host, support::*};

fn identity_endpoint() -> EndpointProperties {
    let region = ResvRegion { start: 0x10_0000, end: 0x10_ffff, kind: ResvKind::Identity };
    EndpointProperties {
        input_range: Some((0, (1 << 39) - 1)),
        ..EndpointProperties::with_regions(Regions::new(vec![region]).unwrap())
    }
}

fn topology(device: &Device) {
    device.add_emulated_endpoint(EndpointId(8)).unwrap();
    device.add_emulated_endpoint(EndpointId(9)).unwrap();
    device.add_endpoint(EndpointId(20), identity_endpoint()).unwrap();
}

/// A device in the middle of its life.
fn busy(options: DeviceOptions) -> Rig {
    let mut rig = Rig::idle(options);
    topology(&rig.device);
    rig.activate(rig.device.features() & !virtio_iommu::device::F_EVENT_IDX);
    rig.device.write_config(36, &[1]);
    rig.give_event_buffers(4, 24);
    assert_eq!(rig.attach(1, 8), Status::Ok);
    assert_eq!(rig.map(1, 0x1000, 0x1fff, 0x5000), Status::Ok);
    assert_eq!(rig.map_flags(1, 0x20_0000, 0x7f_ffff, 0x10_0000, 1), Status::Ok);
    assert_eq!(rig.map_flags(1, 0x8000, 0x8fff, 0x0, 0), Status::Ok);
    assert_eq!(rig.attach_flags(2, 9, ATTACH_F_BYPASS), Status::Ok);
    assert_eq!(rig.attach(3, 20), Status::Ok);
    assert_eq!(rig.map(3, 0, 0xfff, 0x6000), Status::Ok);
    rig
}

fn saved(rig: &Rig) -> State {
    rig.device.pause();
    rig.device.save().unwrap()
}

/// A fresh device on the same memory, as after a migration.
fn fresh(rig: &Rig) -> Device {
    let device = Device::new(rig.device.options().clone(), GuestRam::new(rig.ram.clone()).unwrap()).unwrap();
    topology(&device);
    device
}

#[test]
fn everything_is_as_it_was() {
    for base in [options(), byte_granule(), DeviceOptions { input_range: IovaRange::ALL, ..options() }] {
        let mut rig = busy(base);
        let state = saved(&rig);
        let again = decode(&encode(&state).unwrap()).unwrap();
        assert_eq!(again, state);
        let device = fresh(&rig);
        device.restore(&again, rig.irq.clone()).unwrap();
        rig.device = device;
        assert!(dma_write(&rig.port(8), 0x1000, b"a") && !dma_write(&rig.port(8), 0x20_0000, b"b"));
        assert_eq!(rig.peek(0x5000), *b"a");
        assert!(dma_write(&rig.port(9), 0x7000, b"c"), "bypass domain");
        assert!(dma_write(&rig.port(20), 0x10_0000, b"d"), "IDENTITY region");
        assert_eq!(rig.next_fault().map(|fault| fault.endpoint), Some(8), "event queue");
        assert_eq!(rig.map(3, 1 << 39, (1 << 39) + 0xfff, 0), Status::Range, "the domain's own range");
        assert_eq!(rig.unmap(1, 0x20_0000, 0x20_0fff), Status::Range, "a mapping is still one mapping");
        assert_eq!(rig.detach(2, 9), Status::Ok);
        assert!(dma_write(&rig.port(9), 0x7000, b"e"), "the bypass field");
        assert_eq!((rig.detach(1, 8), rig.detach(3, 20)), (Status::Ok, Status::Ok));
        rig.device.reset();
        assert_eq!(rig.counters().mappings_reserved, 0);
    }
}

#[test]
fn requests_queued_while_paused_are_served_after() {
    let mut rig = busy(options());
    rig.device.pause();
    rig.requests.put_chain(0, &[(0x50000, 20, 0), (0x50100, 4, WRITE)]);
    rig.requests.make_available(0);
    rig.kick();
    assert!(rig.requests.pop_used().is_none());
    let state = rig.device.save().unwrap();
    let device = fresh(&rig);
    rig.device.resume().unwrap();
    assert!(rig.requests.pop_used().is_some(), "resumed in place");
    // The same, moved elsewhere: the ring is taken up where the state says.
    rig.device.reset();
    device.restore(&state, rig.irq.clone()).unwrap();
    assert_eq!(device.counters().batches, 1);
}

#[test]
fn a_running_device_is_not_saved_and_a_used_one_not_restored() {
    let rig = busy(options());
    assert_eq!(rig.device.save(), Err(SaveError::Running));
    let state = saved(&rig);
    assert!(matches!(rig.device.restore(&state, rig.irq.clone()), Err(RestoreError::InUse)));
}

#[test]
fn a_state_before_driver_ok() {
    let rig = Rig::idle(DeviceOptions { boot_bypass: true, ..options() });
    topology(&rig.device);
    let state = saved(&rig);
    let device = fresh(&rig);
    device.restore(&state, rig.irq.clone()).unwrap();
    assert_eq!(device.save().unwrap(), state);
}

#[test]
fn no_damaged_byte_is_overlooked() {
    let rig = busy(options());
    let bytes = encode(&saved(&rig)).unwrap();
    for at in 0..bytes.len() {
        for bit in [0x01, 0x20, 0x80] {
            let mut damaged = bytes.clone();
            damaged[at] ^= bit;
            assert!(decode(&damaged).is_err(), "byte {at} ^ {bit:#x}");
        }
    }
    for len in 0..bytes.len() {
        assert!(decode(&bytes[..len]).is_err(), "cut to {len}");
    }
    assert!(decode(&[bytes.as_slice(), b" "].concat()).is_err());
}

#[test]
fn a_future_version_is_named() {
    assert!(matches!(decode(b"virtio-iommu/state/3 2 00000000\n{}"), Err(FormatError::Future { found: 3 })));
    assert!(matches!(decode(b"virtio-iommu/state/0 2 00000000\n{}"), Err(FormatError::NotAState)));
    assert!(matches!(decode(b"{}"), Err(FormatError::NotAState)));
}

/// Every way in which a readable state can be wrong is refused, and leaves the device as it was.
#[test]
fn states_that_do_not_fit_are_refused_whole() {
    type Spoil = fn(&mut State);
    let spoilers: &[(&str, Spoil)] = &[
        ("page size", |s| s.identity.page_size_mask = !0xffff),
        ("input range", |s| s.identity.input_range.1 = 1),
        ("domain range", |s| s.identity.domain_range.0 = 1),
        ("features", |s| s.identity.features ^= 1 << 4),
        ("negotiated", |s| s.negotiated |= 1 << 60),
        ("queues without negotiation", |s| s.negotiated = 0),
        ("domains without negotiation", |s| {
            s.negotiated = 0;
            s.queues.clear();
        }),
        ("mappings without MAP_UNMAP", |s| s.negotiated &= !feature::MAP_UNMAP),
        ("a bypass domain without BYPASS_CONFIG", |s| s.negotiated &= !feature::BYPASS_CONFIG),
        ("a driver without VERSION_1", |s| s.negotiated &= !virtio_iommu::device::F_VERSION_1),
        ("unknown queue", |s| s.queues[0].index = 2),
        ("queue twice", |s| s.queues[0].index = 1),
        ("queue too large", |s| s.queues[0].size = 512),
        ("queue size", |s| s.queues[0].size = 0),
        ("ring outside memory", |s| s.queues[0].used = 1 << 50),
        ("endpoint missing", |s| s.endpoints.truncate(2)),
        ("endpoint twice", |s| s.endpoints[1] = s.endpoints[0].clone()),
        ("endpoint unknown", |s| s.endpoints[2].id = 21),
        ("endpoint's properties", |s| s.endpoints[0].properties.page_size_mask = Some(0x1000)),
        ("domain without endpoint", |s| s.endpoints[0].domain = None),
        ("endpoint without domain", |s| s.endpoints[0].domain = Some(9)),
        ("domain twice", |s| s.domains[1].id = 1),
        ("domain missing", |s| drop(s.domains.remove(0))),
        ("granule too fine", |s| s.domains[0].granule_shift = 0),
        ("granule absurd", |s| s.domains[0].granule_shift = 64),
        ("range too wide", |s| s.domains[0].input_range.1 = u64::MAX),
        ("range backwards", |s| s.domains[0].input_range = (0x1000, 0)),
        ("range wider than its endpoint's", |s| s.domains[2].input_range.1 = (1 << 40) - 1),
        ("mappings in a bypass domain", |s| s.domains[1].mappings = s.domains[2].mappings.clone()),
        ("bypass domain turned", |s| s.domains[0].bypass = true),
        ("mapping unaligned", |s| s.domains[0].mappings[0].start += 1),
        ("mapping backwards", |s| s.domains[0].mappings[0].end = 0),
        ("mapping overlaps", |s| s.domains[0].mappings[1] = s.domains[0].mappings[0]),
        ("mapping flags", |s| s.domains[0].mappings[0].flags = 8),
        ("mapping outside memory's width", |s| s.domains[0].mappings[0].gpa = 1 << 52),
        ("mapping in a reserved region", |s| {
            s.domains[2].mappings[0].start = 0x10_0000;
            s.domains[2].mappings[0].end = 0x10_0fff;
        }),
        ("endpoints that do not go together", |s| {
            s.endpoints[0].domain = Some(3);
            s.domains.remove(0);
        }),
    ];
    let rig = busy(options());
    let good = saved(&rig);
    for (what, spoil) in spoilers {
        let mut state = good.clone();
        spoil(&mut state);
        assert_ne!(state, good, "{what}");
        let device = fresh(&rig);
        let before = device.save().unwrap();
        let result = device.restore(&state, rig.irq.clone());
        assert!(result.is_err(), "{what} was accepted");
        assert_eq!(device.save().unwrap(), before, "{what} left something behind");
        assert_eq!(device.counters().mappings_reserved, 0, "{what}");
        device.restore(&good, rig.irq.clone()).unwrap();
    }
}

/// The state is sound, but its queues cannot be served: the device is as it was, `bypass` included.
#[test]
fn a_restore_that_cannot_start_changes_nothing() {
    for boot_bypass in [false, true] {
        let rig = busy(options());
        let mut state = saved(&rig);
        state.bypass = !boot_bypass;
        rig.device.reset();
        let options = DeviceOptions { boot_bypass, ..options() };
        let device = Device::new(options, GuestRam::new(rig.ram.clone()).unwrap()).unwrap();
        topology(&device);
        let before = device.save().unwrap();
        // No thread can take part any more.
        let ports: Vec<_> = std::iter::from_fn(|| device.endpoint_port(EndpointId(8)).ok()).collect();
        let refused = device.restore(&state, rig.irq.clone());
        assert!(matches!(refused, Err(RestoreError::Start(_))), "{refused:?}");
        assert_eq!(device.save().unwrap(), before);
        assert_eq!(dma_write(&ports[0], 0x7000, b"x"), boot_bypass);
        assert_eq!((device.domains(), device.table_bytes()), (0, 0));
        assert_eq!((device.counters().mappings_reserved, device.counters().batches), (0, 0));
        drop(ports);
        device.restore(&state, rig.irq.clone()).unwrap();
    }
}

/// What a real device sees is not part of a state: restored onto one, the state would say one thing and the device see
/// another.
#[test]
fn no_state_is_restored_onto_a_real_device() {
    for boot_bypass in [false, true] {
        let rig = Rig::idle(DeviceOptions { boot_bypass, ..options() });
        rig.device.add_emulated_endpoint(EndpointId(8)).unwrap();
        let emulated = saved(&rig);
        let real = || {
            let device =
                Device::new(rig.device.options().clone(), GuestRam::new(rig.ram.clone()).unwrap()).unwrap();
            let (host, properties) = (Arc::new(Host::default()), emulated.endpoints[0].properties.clone());
            device.add_passthrough_endpoint(EndpointId(8), properties, host.clone()).unwrap();
            (device, host)
        };
        let (source, _host) = real();
        assert!(matches!(source.save(), Err(SaveError::Passthrough)), "real to real ends here");
        for (bypass, domain) in [(false, None), (true, None), (false, Some(1))] {
            // As if one had been saved all the same.
            let mut state = emulated.clone();
            (state.bypass, state.endpoints[0].domain) = (bypass, domain);
            if domain.is_some() {
                let rig = busy(options());
                state.domains = vec![saved(&rig).domains[0].clone()];
                state.negotiated = rig.device.features();
            }
            let (device, host) = real();
            let refused = device.restore(&state, rig.irq.clone());
            assert!(
                matches!(refused, Err(RestoreError::Passthrough { endpoint: EndpointId(8) })),
                "{refused:?}"
            );
            assert_eq!((host.reaches_all(), device.domains()), (boot_bypass, 0));
        }
    }
}

#[test]
fn caps_hold_for_restored_states() {
    let rig = busy(options());
    let state = saved(&rig);
    for options in
        [DeviceOptions { max_domains: 2, ..options() }, DeviceOptions { max_mappings: 3, ..options() }]
    {
        let device = Device::new(options, GuestRam::new(rig.ram.clone()).unwrap()).unwrap();
        topology(&device);
        assert!(matches!(device.restore(&state, rig.irq.clone()), Err(RestoreError::Cap { .. })));
    }
}

/// Version 1 of the format, byte for byte: what is saved today can be restored tomorrow. The file is also where the
/// fuzzer of the state starts.
#[test]
fn version_1_is_pinned() {
    let mut rig = Rig::default();
    assert_eq!((rig.attach(1, 8), rig.attach_flags(2, 9, ATTACH_F_BYPASS)), (Status::Ok, Status::Ok));
    assert_eq!(rig.map(1, 0x1000, 0x2fff, 0x5000), Status::Ok);
    let bytes = encode(&saved(&rig)).unwrap();
    let (head, body) = bytes.split_at(bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1);
    let golden = include_bytes!("../../../../dev/fuzz/corpus/state/golden");
    assert_eq!(String::from_utf8_lossy(body), String::from_utf8_lossy(golden));
    assert!(head.starts_with(b"virtio-iommu/state/1 "));
}
