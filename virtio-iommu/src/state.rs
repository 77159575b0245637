//! Saved state (in work).
