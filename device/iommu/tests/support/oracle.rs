//! The device's answers, worked out the slow and obvious way: one ordered map, 128-bit arithmetic, every rule in the
//! order of `docs/error-precedence.md`. Shares no code with the device but the wire constants.

#![allow(dead_code, unreachable_pub, reason = "each user needs a part of it")]

use std::collections::BTreeMap;

use virtio_iommu::spec::Status;

/// What comes back for a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Length 0, nothing written.
    Untouched,
    /// Written in full, with this status.
    Answered(Status),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OracleMapping {
    pub end: u64,
    pub phys: u64,
    pub flags: u32,
}

#[derive(Clone, Debug, Default)]
pub struct OracleDomain {
    pub bypass: bool,
    pub mappings: BTreeMap<u64, OracleMapping>,
}

/// A device whose endpoints are alike, each with one MSI window.
#[derive(Clone, Debug)]
pub struct Oracle {
    pub granule: u128,
    pub input: (u64, u64),
    pub domain_range: (u32, u32),
    pub probe_size: usize,
    pub max_domains: usize,
    pub max_mappings: usize,
    pub msi: (u64, u64),
    pub attached: BTreeMap<u32, Option<u32>>,
    pub domains: BTreeMap<u32, OracleDomain>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

impl Oracle {
    pub fn of(options: &virtio_iommu::DeviceOptions, endpoints: &[u32]) -> Self {
        Self {
            granule: 1 << options.page_size_mask.trailing_zeros(),
            input: (options.input_range.start(), options.input_range.end()),
            domain_range: options.domain_range,
            probe_size: options.probe_size as usize,
            max_domains: options.max_domains,
            max_mappings: options.max_mappings as usize,
            msi: (0xfee0_0000, 0xfeef_ffff),
            attached: endpoints.iter().map(|endpoint| (*endpoint, None)).collect(),
            domains: BTreeMap::new(),
        }
    }

    /// What a chain of these readable bytes and this many writable ones gets.
    pub fn answer(&mut self, readable: &[u8], writable: usize) -> Expected {
        if !(4..=65536).contains(&writable) {
            return Expected::Untouched;
        }
        let size = match readable.first() {
            _ if readable.len() < 4 => return Expected::Answered(Status::Inval),
            Some(1 | 2) => 20,
            Some(3) => 36,
            Some(4) => 28,
            Some(5) => 72,
            _ => return Expected::Untouched,
        };
        if readable.len() < size {
            return Expected::Answered(Status::Inval);
        }
        let status = match readable[0] {
            1 => self.attach(readable),
            2 => self.detach(readable),
            3 => self.map(readable),
            4 => self.unmap(readable),
            _ => self.probe(readable, writable - 4),
        };
        Expected::Answered(status.err().unwrap_or(Status::Ok))
    }

    fn domain_in_range(&self, domain: u32) -> Result<(), Status> {
        let (start, end) = self.domain_range;
        if domain < start || domain > end { Err(Status::Range) } else { Ok(()) }
    }

    fn leave(&mut self, endpoint: u32) {
        if let Some(Some(old)) = self.attached.insert(endpoint, None)
            && !self.attached.values().any(|domain| *domain == Some(old))
        {
            self.domains.remove(&old);
        }
    }

    fn attach(&mut self, b: &[u8]) -> Result<(), Status> {
        let (domain, endpoint, flags, reserved) = (u32_at(b, 4), u32_at(b, 8), u32_at(b, 12), u32_at(b, 16));
        if reserved != 0 || flags > 1 {
            return Err(Status::Inval);
        }
        let current = *self.attached.get(&endpoint).ok_or(Status::NoEnt)?;
        self.domain_in_range(domain)?;
        let bypass = flags == 1;
        if self.domains.get(&domain).is_some_and(|found| found.bypass != bypass) {
            return Err(Status::Inval);
        }
        if current == Some(domain) {
            return Ok(());
        }
        let mut after = self.clone();
        after.leave(endpoint);
        if !after.domains.contains_key(&domain) && after.domains.len() >= self.max_domains {
            return Err(Status::NoMem);
        }
        after.domains.entry(domain).or_default().bypass = bypass;
        after.attached.insert(endpoint, Some(domain));
        *self = after;
        Ok(())
    }

    fn detach(&mut self, b: &[u8]) -> Result<(), Status> {
        let (domain, endpoint) = (u32_at(b, 4), u32_at(b, 8));
        let current = *self.attached.get(&endpoint).ok_or(Status::NoEnt)?;
        self.domain_in_range(domain)?;
        if current != Some(domain) {
            return Err(Status::Inval);
        }
        self.leave(endpoint);
        Ok(())
    }

    fn mapped_domain(&mut self, id: u32) -> Result<&mut OracleDomain, Status> {
        self.domain_in_range(id)?;
        let domain = self.domains.get_mut(&id).ok_or(Status::NoEnt)?;
        if domain.bypass { Err(Status::Inval) } else { Ok(domain) }
    }

    fn map(&mut self, b: &[u8]) -> Result<(), Status> {
        let (start, end, phys, flags) = (u64_at(b, 8), u64_at(b, 16), u64_at(b, 24), u32_at(b, 32));
        if flags & !7 != 0 {
            return Err(Status::Inval);
        }
        let (granule, input, msi, max) = (self.granule, self.input, self.msi, self.max_mappings);
        let mappings: usize = self.domains.values().map(|domain| domain.mappings.len()).sum();
        let domain = self.mapped_domain(u32_at(b, 4))?;
        let unaligned = |addr: u128| !addr.is_multiple_of(granule);
        if end < start || unaligned(start.into()) || unaligned(u128::from(end) + 1) || unaligned(phys.into())
        {
            return Err(Status::Range);
        }
        let phys_end = u128::from(phys) + u128::from(end - start);
        if start < input.0 || end > input.1 || phys_end >= 1 << 52 {
            return Err(Status::Range);
        }
        if start <= msi.1 && end >= msi.0 {
            return Err(Status::Inval);
        }
        if mappings >= max {
            return Err(Status::NoMem);
        }
        if domain.mappings.iter().any(|(first, mapping)| *first <= end && mapping.end >= start) {
            return Err(Status::Inval);
        }
        domain.mappings.insert(start, OracleMapping { end, phys, flags });
        Ok(())
    }

    fn unmap(&mut self, b: &[u8]) -> Result<(), Status> {
        let (start, end) = (u64_at(b, 8), u64_at(b, 16));
        let domain = self.mapped_domain(u32_at(b, 4))?;
        if end < start {
            return Err(Status::Range);
        }
        let touched = |first: u64, mapping: &OracleMapping| first <= end && mapping.end >= start;
        let split = |first: u64, mapping: &OracleMapping| first < start || mapping.end > end;
        if domain.mappings.iter().any(|(first, mapping)| touched(*first, mapping) && split(*first, mapping)) {
            return Err(Status::Range);
        }
        domain.mappings.retain(|first, mapping| !touched(*first, mapping));
        Ok(())
    }

    fn probe(&self, b: &[u8], properties: usize) -> Result<(), Status> {
        self.attached.get(&u32_at(b, 4)).ok_or(Status::NoEnt)?;
        if properties < self.probe_size { Err(Status::Inval) } else { Ok(()) }
    }

    /// Where an endpoint's access of one byte goes; `None` for a fault. Unattached endpoints are not in bypass mode.
    pub fn translate(&self, endpoint: u32, iova: u64, write: bool) -> Option<u64> {
        let domain = self.domains.get(&self.attached.get(&endpoint).copied().flatten()?)?;
        if domain.bypass {
            return Some(iova);
        }
        let (first, mapping) = domain.mappings.range(..=iova).next_back()?;
        let bit = if write { 2 } else { 1 };
        (mapping.end >= iova && mapping.flags & bit != 0).then(|| mapping.phys + (iova - first))
    }
}
