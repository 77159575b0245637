//! What a platform adds to every emulated endpoint.

use serde::{Deserialize, Serialize};

use super::{EndpointProperties, Regions, ResvKind, ResvRegion};

/// The doorbell window of x86's local APICs: `[0xfee00000, 0xfeefffff]`.
pub const X86_MSI_WINDOW: (u64, u64) = (0xfee0_0000, 0xfeef_ffff);
/// Page sizes of an Arm machine with 4 KiB granules: 4K, 2M, 1G.
pub const ARM_PAGE_SIZES: u64 = 1 << 12 | 1 << 21 | 1 << 30;

/// The machine the device is part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    /// MSIs are writes to a fixed window that the IOMMU does not translate: every endpoint reports it as MSI.
    #[default]
    X86,
    /// MSI doorbells are translated like any other address: no MSI property, so that the driver maps the doorbell.
    Arm,
}

impl Platform {
    /// Properties of an emulated endpoint on this platform.
    pub fn endpoint(self) -> EndpointProperties {
        let regions = match self {
            Self::X86 => {
                let (start, end) = X86_MSI_WINDOW;
                vec![ResvRegion { start, end, kind: ResvKind::Msi }]
            }
            Self::Arm => Vec::new(),
        };
        // A single region cannot overlap another.
        EndpointProperties::with_regions(Regions::new(regions).unwrap_or_default())
    }

    /// Properties of a passed-through endpoint: what the host reserves is RESERVED for the guest, whatever the host
    /// uses it for. A host doorbell (`host_msi`) is never a guest MSI window.
    ///
    /// # Errors
    /// When the host's regions overlap each other or the platform's MSI window.
    pub fn passthrough(
        self,
        host: impl IntoIterator<Item = (u64, u64)>,
    ) -> Result<EndpointProperties, super::RegionsError> {
        let mut regions: Vec<ResvRegion> = self.endpoint().regions.into();
        for (start, end) in host {
            // A host region within the platform's own window adds nothing.
            let known = regions.iter().any(|region| region.start <= start && end <= region.end);
            if !known {
                regions.push(ResvRegion { start, end, kind: ResvKind::Reserved });
            }
        }
        Ok(EndpointProperties::with_regions(Regions::new(regions)?))
    }
}
