//! The bytes of a disk: the waist that joins any reader to any writer, formats, zero detection, the Merkle root.
//!
//! Owns everything that is true of bytes wherever they lie. Must not know vaults, clouds, servers or policies.

mod blocks;
mod discard;
pub mod file;
mod inspect;
mod nbd;
mod over;
mod pool;
mod progress;
mod root;
mod transfer;
mod waist;
mod zero;

pub use blocks::{BLOCK, BlockHash, hash_blocks, zero_block};
pub use discard::Discard;
pub use file::{
    Base, Format, OpenOptions, Output, check_written, create_file, create_recorded, create_scratch, detect,
    leaves_path, open_file, open_file_with,
};
pub use inspect::{Finding, Inspection, Kernel, System, Volume, inspect};
pub use nbd::{Export, NbdServer};
pub use over::over;
pub use pool::{ALIGN, Buffer};
pub use progress::{Progress, Silent};
pub use root::{
    LEAF, LEAF_BLOCKS, LEAVES_PER_PAGE, Leaf, PAGE, PageHash, RootBuilder, leaf, leaf_of, leaves_of, page_hash,
    root_of_pages, zero_leaf,
};
pub use transfer::transfer;
pub use waist::{DiskRead, DiskWrite, PlainRange, Written};
pub use zero::is_zero;
