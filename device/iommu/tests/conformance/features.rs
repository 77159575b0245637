//! "Feature bits".

use virtio_iommu::{DeviceOptions, spec::feature};

use super::support::*;

/// clause: features_1 "The device SHOULD offer feature bit VIRTIO_IOMMU_F_MAP_UNMAP."
#[test]
fn features_1_map_unmap_is_offered() {
    assert_ne!(Rig::idle(DeviceOptions::default()).features() & feature::MAP_UNMAP, 0);
}

/// clause: features_2 "New devices SHOULD NOT offer VIRTIO_IOMMU_F_BYPASS."
#[test]
fn features_2_legacy_bypass_is_not_offered() {
    assert_eq!(Rig::idle(DeviceOptions::default()).features() & feature::BYPASS, 0);
}

/// clause: features_3 "Devices SHOULD NOT offer both VIRTIO_IOMMU_F_BYPASS and VIRTIO_IOMMU_F_BYPASS_CONFIG."
#[test]
fn features_3_never_both_kinds_of_bypass() {
    for legacy_bypass in [false, true] {
        let rig = Rig::idle(DeviceOptions { legacy_bypass, ..options() });
        let offered = rig.features() & (feature::BYPASS | feature::BYPASS_CONFIG);
        assert_eq!(offered.count_ones(), 1);
        assert_eq!(offered == feature::BYPASS, legacy_bypass);
    }
}
