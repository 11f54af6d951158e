//! An NBD client over a Unix socket: fixed newstyle handshake, structured replies, meta contexts
//! (`base:allocation`, `qemu:dirty-bitmap:NAME`), many requests in flight on one connection.
//!
//! Every length that the server names is checked before anything is allocated or read by it.

mod connection;
mod disk;
mod wire;

pub use connection::{Connection, Status};
pub use disk::NbdDisk;
