//! The decoder: bytes in, request or error out.

use virtio_iommu_spec::request::{
    Attach, Detach, HEAD_BYTES, MAX_READABLE_BYTES, Map, Probe, TAIL_BYTES, Unmap, kind,
};

use super::{ChainError, RequestError};

/// Most writable bytes of a chain that is answered.
///
/// Every answered chain is written in full, so that its used length is true. A guest could otherwise make the device
/// fill gigabytes with zeroes by chaining its whole memory behind one PROBE.
pub const MAX_WRITABLE_BYTES: u64 = 1 << 16;

/// The head of a chain's readable part, copied out of guest memory once.
#[derive(Clone, Copy, Debug)]
pub struct Readable {
    /// The first bytes; those past `len` are zero.
    pub bytes: [u8; MAX_READABLE_BYTES],
    /// Readable bytes of the whole chain, which may be more than are kept. What lies past a request's own size is
    /// ignored.
    pub len: u64,
}

/// Request types that depend on features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// MAP and UNMAP: MAP_UNMAP was negotiated.
    pub map_unmap: bool,
    /// PROBE: the device offers PROBE.
    pub probe: bool,
}

/// A request, its fields not judged yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Attach an endpoint to a domain.
    Attach(Attach),
    /// Detach an endpoint from a domain.
    Detach(Detach),
    /// Create a mapping.
    Map(Map),
    /// Remove mappings.
    Unmap(Unmap),
    /// Read the properties of an endpoint.
    Probe(Probe),
}

/// A chain that will be answered.
pub type Decoded = Result<Request, RequestError>;

/// Tells what a chain asks for. A chain is refused unanswered (outer error) when there is no room for a tail or
/// the type is unknown: "If a request type is not recognized, the device SHOULD NOT write the buffer and SHOULD set
/// the used length to zero". A readable part that is too short is answered with INVAL (inner error).
///
/// # Errors
/// [`ChainError`], for a chain that is returned unwritten.
#[inline]
pub fn decode(readable: &Readable, writable_len: u64, offer: Offer) -> Result<Decoded, ChainError> {
    if writable_len < TAIL_BYTES as u64 {
        return Err(ChainError::NoTail { writable: writable_len });
    }
    if writable_len > MAX_WRITABLE_BYTES {
        return Err(ChainError::Oversized { writable: writable_len });
    }
    if readable.len < HEAD_BYTES as u64 {
        return Ok(Err(RequestError::Short { have: readable.len, need: HEAD_BYTES }));
    }
    // The head's reserved bytes are ignored: "The device MUST ignore field reserved of struct virtio_iommu_req_head".
    Ok(match readable.bytes[0] {
        kind::ATTACH => fields(readable, |b| Request::Attach(Attach::decode(b))),
        kind::DETACH => fields(readable, |b| Request::Detach(Detach::decode(b))),
        kind::MAP if offer.map_unmap => fields(readable, |b| Request::Map(Map::decode(b))),
        kind::UNMAP if offer.map_unmap => fields(readable, |b| Request::Unmap(Unmap::decode(b))),
        kind::PROBE if offer.probe => fields(readable, |b| Request::Probe(Probe::decode(b))),
        kind => return Err(ChainError::UnknownType { kind }),
    })
}

#[inline]
fn fields<const N: usize>(readable: &Readable, decode: impl FnOnce(&[u8; N]) -> Request) -> Decoded {
    match readable.bytes.first_chunk::<N>() {
        Some(bytes) if readable.len >= N as u64 => Ok(decode(bytes)),
        _ => Err(RequestError::Short { have: readable.len, need: N }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Offer = Offer { map_unmap: true, probe: true };

    fn readable(bytes: &[u8]) -> Readable {
        let mut r = Readable { bytes: [0; MAX_READABLE_BYTES], len: bytes.len() as u64 };
        r.bytes[..bytes.len()].copy_from_slice(bytes);
        r
    }

    #[test]
    fn every_length_of_every_type() {
        for (kind, size) in [(1u8, 20usize), (2, 20), (3, 36), (4, 28), (5, 72)] {
            for len in 0..=72 {
                let mut bytes = vec![0u8; len];
                if let Some(first) = bytes.first_mut() {
                    *first = kind;
                }
                let decoded = decode(&readable(&bytes), 4, ALL).unwrap();
                let need = if len < 4 { 4 } else { size };
                match decoded {
                    Ok(_) => assert!(len >= size),
                    Err(error) => assert_eq!(error, RequestError::Short { have: len as u64, need }),
                }
            }
        }
    }

    #[test]
    fn no_tail_comes_before_everything() {
        for writable in 0..4 {
            assert_eq!(decode(&readable(&[]), writable, ALL).unwrap_err(), ChainError::NoTail { writable });
        }
    }

    #[test]
    fn types_of_absent_features_are_unknown() {
        let none = Offer { map_unmap: false, probe: false };
        for kind in [0, 3, 4, 5, 6, 255] {
            let bytes = [kind; 72];
            assert_eq!(decode(&readable(&bytes), 4, none).unwrap_err(), ChainError::UnknownType { kind });
        }
    }
}
