//! Archives over any bucket: deduplicated, compressed, encrypted restore points.
//!
//! Owns the format (see `FORMAT.md`), keys, packs, manifests, verification, the collector and compaction. Must not know servers,
//! clouds, policies or schedules.

pub mod bucket;
mod cipher;
mod codec;
mod collect;
mod compact;
mod index;
mod keys;
pub mod layout;
mod lru;
mod manifest;
mod map;
mod options;
mod pack;
mod reader;
mod seal;
mod shared;
mod vault;
mod verify;
mod work;
mod writer;

pub use collect::CollectReport;
pub use compact::{CompactReport, Compaction};
pub use keys::{Identity, Recipient, RecipientInfo};
pub use layout::PackId;
pub use options::Options;
pub use vault::Vault;
pub use verify::{DamagedPack, VerifyReport, VerifyScope};
pub use writer::{PointWriter, Sealed};
