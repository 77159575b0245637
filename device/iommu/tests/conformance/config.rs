//! "Device configuration layout".

use virtio_iommu::{
    Device, DeviceOptions, OptionsError, device::DeviceError, memory::GuestRam, spec::config::Config,
};

use super::support::*;

fn config(rig: &Rig) -> Config {
    let mut bytes = [0; 40];
    rig.read_config(0, &mut bytes);
    Config::decode(&bytes)
}

/// clause: config_1 "The device MUST set at least one bit in page_size_mask, describing the page granularity."
#[test]
fn config_1_a_page_size_mask_without_a_bit_is_refused() {
    assert_eq!(config(&Rig::idle(options())).page_size_mask.trailing_zeros(), 12);
    let none = DeviceOptions { page_size_mask: 0, ..options() };
    let refused = Device::new(none, GuestRam::new(ram()).unwrap()).err().unwrap();
    assert!(matches!(refused, DeviceError::Options(OptionsError::NoPageSize)));
}

/// clause: config_2 "The device MAY set more than one bit in page_size_mask."
#[test]
fn config_2_larger_pages_are_hinted_at() {
    assert_eq!(config(&Rig::idle(options())).page_size_mask, !0xfff);
}

/// clause: config_3 "If the device offers the VIRTIO_IOMMU_F_BYPASS_CONFIG feature, it MAY initialize the bypass field to 1."
#[test]
fn config_3_bypass_starts_as_boot_bypass_says() {
    for boot_bypass in [false, true] {
        let rig = Rig::idle(DeviceOptions { boot_bypass, ..options() });
        assert_eq!(config(&rig).bypass, u8::from(boot_bypass));
    }
}

/// clause: config_4a "Field bypass SHOULD NOT change on device reset, but SHOULD be restored to its initial value on system reset."
#[test]
fn config_4a_device_reset_keeps_bypass() {
    for bypass in [0, 1] {
        let rig = Rig::new(DeviceOptions { boot_bypass: bypass == 0, ..options() });
        rig.write_config(36, &[bypass]);
        rig.reset();
        assert_eq!(config(&rig).bypass, bypass);
    }
}

/// clause: config_4b "Field bypass SHOULD NOT change on device reset, but SHOULD be restored to its initial value on system reset."
#[test]
fn config_4b_system_reset_restores_bypass() {
    for boot_bypass in [false, true] {
        let rig = Rig::new(DeviceOptions { boot_bypass, ..options() });
        rig.write_config(36, &[u8::from(!boot_bypass)]);
        rig.system_reset();
        assert_eq!(config(&rig).bypass, u8::from(boot_bypass));
    }
}

/// clause: config_5 "The device MUST NOT present a value different than 0 or 1 in bypass."
#[test]
fn config_5_only_0_and_1_are_taken_for_bypass() {
    let rig = Rig::new(options());
    for value in 0..=255 {
        rig.write_config(36, &[value]);
        assert!(config(&rig).bypass <= 1, "{value} was taken");
    }
    rig.write_config(36, &[1]);
    rig.write_config(36, &[2]);
    assert_eq!(config(&rig).bypass, 1);
    // Other fields are read-only, whatever the width of the write.
    let before = config(&rig);
    rig.write_config(0, &[0xff; 40]);
    rig.write_config(u64::MAX, &[0; 8]);
    assert_eq!(config(&rig), before);
}
