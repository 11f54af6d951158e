//! Archives over any bucket: deduplicated, compressed, encrypted restore points.
//!
//! Owns the format (see `FORMAT.md`), keys, packs, manifests, verification and the collector. Must not know servers,
//! clouds, policies or schedules.

pub mod bucket;
