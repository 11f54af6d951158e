//! The bytes of a disk: the waist that joins any reader to any writer, formats, zero detection, the Merkle root.
//!
//! Owns everything that is true of bytes wherever they lie. Must not know vaults, clouds, servers or policies.

pub mod file;
mod over;
mod pool;
mod progress;
mod root;
mod transfer;
mod waist;
mod zero;

pub use file::{Format, OpenOptions, create_file, detect, open_file, open_file_with};
pub use over::over;
pub use pool::Buffer;
pub use progress::{Progress, Silent};
pub use root::{LEAF, LEAVES_PER_PAGE, Leaf, PAGE, PageHash, RootBuilder, leaf, page_hash, root_of_pages, zero_leaf};
pub use transfer::{TransferOptions, transfer};
pub use waist::{DiskRead, DiskWrite, PlainRange, Written};
pub use zero::is_zero;
