//! Requests, from bytes to a typed request or an error ("Device operations").
//!
//! Decoding is pure: the readable part has been copied out of guest memory once, so what was judged is what is done,
//! whatever the guest writes meanwhile.

mod decode;
mod error;

pub use decode::{Decoded, MAX_WRITABLE_BYTES, Offer, Readable, Request, decode};
pub use error::{ChainError, ChainErrorKind, RequestError, status};
