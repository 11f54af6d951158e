//! The words of the NBD protocol (newstyle, structured replies, block status), and how they are read and written.

use model::{Error, Kind, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub(super) const GREETING: u64 = u64::from_be_bytes(*b"NBDMAGIC");
pub(super) const OPTION: u64 = u64::from_be_bytes(*b"IHAVEOPT");
pub(super) const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
pub(super) const REQUEST: u32 = 0x2560_9513;
pub(super) const SIMPLE_REPLY: u32 = 0x6744_6698;
pub(super) const CHUNK: u32 = 0x668e_33ef;

/// The longest read. What is announced, and what programs keep to unasked.
pub(super) const LONGEST: u32 = 32 << 20;
/// The longest option that is looked at: a name is at most 4 KiB.
pub(super) const LONGEST_OPTION: u32 = 64 << 10;

/// Handshake flags, of both sides.
pub(super) const FIXED_NEWSTYLE: u16 = 1;
pub(super) const NO_ZEROES: u16 = 2;

pub(super) mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

pub(super) mod reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const UNSUPPORTED: u32 = (1 << 31) + 1;
    pub const INVALID: u32 = (1 << 31) + 3;
    pub const UNKNOWN: u32 = (1 << 31) + 6;
    pub const TOO_BIG: u32 = (1 << 31) + 9;
}

pub(super) mod info {
    pub const EXPORT: u16 = 0;
    pub const BLOCK_SIZE: u16 = 3;
}

pub(super) mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISCONNECT: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
    /// Flag: one extent is enough.
    pub const ONE: u16 = 1 << 3;
}

pub(super) mod chunk {
    pub const DONE: u16 = 1;
    pub const NONE: u16 = 0;
    pub const DATA: u16 = 1;
    pub const HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const ERROR: u16 = (1 << 15) + 1;
}

/// Flags of an export: there are flags, read only, flush, don't fragment, several connections see one disk, cache.
pub(super) const EXPORT_FLAGS: u16 = 1 | 1 << 1 | 1 << 2 | 1 << 7 | 1 << 8 | 1 << 10;

/// The one metadata context: what is data and what is zero.
pub(super) const ALLOCATION: &str = "base:allocation";
pub(super) const ALLOCATION_ID: u32 = 1;
/// Not allocated, and reads as zero.
pub(super) const HOLE_AND_ZERO: u32 = 3;

pub(super) mod errno {
    pub const PERMISSION: u32 = 1;
    pub const IO: u32 = 5;
    pub const INVALID: u32 = 22;
}

/// Trouble with a client.
pub(super) fn broken(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::Invalid, "cannot serve a client over NBD").because(why)
}

/// Reads exactly so many bytes; `None` if the client has gone before the first one.
pub(super) async fn receive<const N: usize>(input: &mut (impl AsyncRead + Unpin)) -> Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    let mut got = 0;
    while got < N {
        match input.read(&mut bytes[got..]).await {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(broken("it hung up in the middle of a message")),
            Ok(count) => got += count,
            // a client that is killed resets the connection: it has gone
            Err(_) if got == 0 => return Ok(None),
            Err(error) => return Err(broken(error)),
        }
    }
    Ok(Some(bytes))
}

pub(super) async fn send(output: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<()> {
    output.write_all(bytes).await.map_err(broken)
}

/// Takes numbers and words off the front of a message.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.bytes(2)?.try_into().ok()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.bytes(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.bytes(8)?.try_into().ok()?))
    }

    /// A word with its length before it.
    pub(super) fn text(&mut self) -> Option<&'a str> {
        let len = self.u32()?;
        std::str::from_utf8(self.bytes(len as usize)?).ok()
    }
}
