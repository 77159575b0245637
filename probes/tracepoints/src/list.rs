//! Every site: one function each, and the list of them.

#![allow(unsafe_code, reason = "a no-operation with its arguments in chosen registers is inline assembly")]

use crate::{EndpointKey, RequestKey, Site};

crate::emit::sites! {
    /// Driver: a request is on the ring, not visible to the device yet.
    each submit(key: RequestKey, request_type: u8 as "type of the request on the wire");

    /// Driver: requests are visible and the doorbell is about to be rung. Not reached where the device asked for no kick.
    batch kick(last: RequestKey, requests: u32 as "requests made visible by it");

    /// Device: a request was copied out of guest memory and decoded, or refused while decoding.
    each decoded(key: RequestKey, request_type: u8 as "type of the request on the wire");

    /// Device: the request's effect on domains and mappings is there, its answer is not published yet.
    each table_done(key: RequestKey, status: u8 as "virtio-iommu status");

    /// Device: no access still runs under what the batch removed.
    batch grace_done(
        last: RequestKey,
        requests: u32 as "requests of the batch",
        removals: u32 as "requests that removed something",
    );

    /// Device: the answers of a batch are visible to the driver.
    batch completed(last: RequestKey, requests: u32 as "requests answered");

    /// Driver: everything it waited for was answered and looked at.
    batch answered(last: RequestKey, requests: u32 as "answers taken");

    /// Endpoint: a chain of an endpoint's own queue was served, its data moved. The key is that queue's.
    each backend_done(
        key: RequestKey,
        payload_bytes: u64 as "payload moved, bytes",
        written_bytes: u32 as "bytes written to the guest",
    );

    /// Device: an access of an endpoint was refused. Belongs to no request; the first argument is the endpoint's ID.
    each fault(
        endpoint: EndpointKey,
        address: u64 as "address as the endpoint used it",
        cause: u8 as "0 unattached, 1 not mapped, 2 permission",
    );
}
