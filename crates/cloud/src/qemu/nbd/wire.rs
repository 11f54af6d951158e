//! The bytes of the NBD protocol: the handshake, requests, and the heads of replies.

use model::{Error, Kind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

const OPTION_GO: u32 = 7;
const OPTION_STRUCTURED: u32 = 8;
const OPTION_SET_CONTEXT: u32 = 10;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_CONTEXT: u32 = 4;
const REPLY_UNKNOWN_EXPORT: u32 = (1 << 31) + 6;
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

/// `NBD_CMD_READ`.
pub(super) const READ: u16 = 0;
/// `NBD_CMD_BLOCK_STATUS`.
pub(super) const STATUS: u16 = 7;

/// Longest reply to an option that is accepted.
const LONGEST_REPLY: u32 = 64 << 10;
/// A payload may be this long unless the server says less.
const USUAL_PAYLOAD: u32 = 32 << 20;

/// What the handshake has settled.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) size: u64,
    pub(super) payload: u32,
    /// Id and name of the contexts that the server agreed to.
    pub(super) contexts: Vec<(u32, String)>,
}

/// The head of a reply.
#[derive(Debug, Clone, Copy)]
pub(super) enum Head {
    Simple { error: u32, handle: u64 },
    Chunk { done: bool, kind: u16, handle: u64, len: u32 },
}

/// Shakes hands and enters the export.
pub(super) async fn negotiate<S>(stream: &mut S, export: &str, contexts: &[String]) -> Result<Session>
where
    S: AsyncReadExt + AsyncWriteExt + Unpin,
{
    if read_u64(stream).await? != MAGIC || read_u64(stream).await? != OPTION_MAGIC {
        return Err(odd("it does not greet as an NBD server of the newstyle kind"));
    }
    if read_u16(stream).await? & 1 == 0 {
        return Err(odd("it does not speak the fixed newstyle"));
    }
    stream.write_all(&3_u32.to_be_bytes()).await.map_err(lost)?; // fixed newstyle, no zeroes
    send_option(stream, OPTION_STRUCTURED, &[]).await?;
    if read_reply(stream, OPTION_STRUCTURED).await?.0 != REPLY_ACK {
        return Err(odd("it has no structured replies"));
    }
    let contexts = set_contexts(stream, export, contexts).await?;
    go(stream, export, contexts).await
}

async fn set_contexts<S>(stream: &mut S, export: &str, wanted: &[String]) -> Result<Vec<(u32, String)>>
where
    S: AsyncReadExt + AsyncWriteExt + Unpin,
{
    let mut data = counted(export)?;
    data.extend_from_slice(&u32::try_from(wanted.len()).unwrap_or(u32::MAX).to_be_bytes());
    for name in wanted {
        data.extend(counted(name)?);
    }
    send_option(stream, OPTION_SET_CONTEXT, &data).await?;
    let mut agreed = Vec::new();
    loop {
        let (kind, payload) = read_reply(stream, OPTION_SET_CONTEXT).await?;
        match kind {
            REPLY_ACK => return Ok(agreed),
            REPLY_CONTEXT if payload.len() > 4 && agreed.len() < 64 => {
                let (id, name) = payload.split_at(4);
                let id = u32::from_be_bytes([id[0], id[1], id[2], id[3]]);
                agreed.push((id, String::from_utf8_lossy(name).into_owned()));
            }
            _ => return Err(refused(kind, &payload, export)),
        }
    }
}

async fn go<S>(stream: &mut S, export: &str, contexts: Vec<(u32, String)>) -> Result<Session>
where
    S: AsyncReadExt + AsyncWriteExt + Unpin,
{
    let mut data = counted(export)?;
    data.extend_from_slice(&1_u16.to_be_bytes());
    data.extend_from_slice(&INFO_BLOCK_SIZE.to_be_bytes());
    send_option(stream, OPTION_GO, &data).await?;
    let (mut size, mut payload) = (None, USUAL_PAYLOAD);
    loop {
        let (kind, info) = read_reply(stream, OPTION_GO).await?;
        match (kind, info.as_slice()) {
            (REPLY_ACK, _) => break,
            (REPLY_INFO, [a, b, rest @ ..]) => match (u16::from_be_bytes([*a, *b]), rest) {
                (INFO_EXPORT, [s @ .., _, _]) => size = <[u8; 8]>::try_from(s).ok().map(u64::from_be_bytes),
                (INFO_BLOCK_SIZE, [_, _, _, _, _, _, _, _, m @ ..]) => {
                    payload = <[u8; 4]>::try_from(m).map_or(payload, u32::from_be_bytes).min(USUAL_PAYLOAD);
                }
                _ => {}
            },
            _ => return Err(refused(kind, &info, export)),
        }
    }
    let size = size.ok_or_else(|| odd("it did not tell the export's size"))?;
    if size % 512 != 0 || size > i64::MAX as u64 {
        return Err(odd(format!("the export's size, {size} bytes, is not a multiple of 512")));
    }
    Ok(Session { size, payload: (payload / 512 * 512).max(512), contexts })
}

/// Reads the head of the next reply.
pub(super) async fn read_head<S: AsyncReadExt + Unpin>(stream: &mut S) -> Result<Head> {
    match read_u32(stream).await? {
        SIMPLE_REPLY_MAGIC => Ok(Head::Simple { error: read_u32(stream).await?, handle: read_u64(stream).await? }),
        STRUCTURED_REPLY_MAGIC => {
            let flags = read_u16(stream).await?;
            let kind = read_u16(stream).await?;
            let handle = read_u64(stream).await?;
            Ok(Head::Chunk { done: flags & 1 == 1, kind, handle, len: read_u32(stream).await? })
        }
        _ => Err(odd("a reply has a wrong magic number")),
    }
}

/// The bytes of a request.
pub(super) fn request(command: u16, handle: u64, offset: u64, len: u32) -> [u8; 28] {
    let mut bytes = [0; 28];
    bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    bytes[6..8].copy_from_slice(&command.to_be_bytes());
    bytes[8..16].copy_from_slice(&handle.to_be_bytes());
    bytes[16..24].copy_from_slice(&offset.to_be_bytes());
    bytes[24..].copy_from_slice(&len.to_be_bytes());
    bytes
}

fn counted(text: &str) -> Result<Vec<u8>> {
    if text.len() > 4096 {
        return Err(Error::new(Kind::Invalid, "cannot name an NBD export or context").because("it is too long"));
    }
    let mut data = Vec::with_capacity(4 + text.len());
    data.extend_from_slice(&(text.len() as u32).to_be_bytes());
    data.extend_from_slice(text.as_bytes());
    Ok(data)
}

async fn send_option<S: AsyncWriteExt + Unpin>(stream: &mut S, option: u32, data: &[u8]) -> Result<()> {
    let mut bytes = Vec::with_capacity(16 + data.len());
    bytes.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(data);
    stream.write_all(&bytes).await.map_err(lost)
}

async fn read_reply<S: AsyncReadExt + Unpin>(stream: &mut S, option: u32) -> Result<(u32, Vec<u8>)> {
    if read_u64(stream).await? != OPTION_REPLY_MAGIC || read_u32(stream).await? != option {
        return Err(odd("it answers another option than was asked"));
    }
    let kind = read_u32(stream).await?;
    let len = read_u32(stream).await?;
    if len > LONGEST_REPLY {
        return Err(odd(format!("its answer to an option has {len} bytes")));
    }
    let mut payload = vec![0; len as usize];
    stream.read_exact(&mut payload).await.map_err(lost)?;
    Ok((kind, payload))
}

fn refused(kind: u32, payload: &[u8], export: &str) -> Error {
    let text = String::from_utf8_lossy(payload).into_owned();
    let text = if text.is_empty() { format!("the server answers {kind:#x}") } else { text };
    let kind = if kind == REPLY_UNKNOWN_EXPORT { Kind::NotFound } else { Kind::Permanent };
    Error::new(kind, format!("cannot enter export {export}")).because(text)
}

/// The server does not keep to the protocol.
pub(super) fn odd(reason: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, "cannot speak with the NBD server").because(reason.into())
}

/// The connection is gone.
pub(super) fn lost(error: std::io::Error) -> Error {
    Error::io("cannot speak with the NBD server", error)
}

async fn read_u16<S: AsyncReadExt + Unpin>(stream: &mut S) -> Result<u16> {
    stream.read_u16().await.map_err(lost)
}

pub(super) async fn read_u32<S: AsyncReadExt + Unpin>(stream: &mut S) -> Result<u32> {
    stream.read_u32().await.map_err(lost)
}

pub(super) async fn read_u64<S: AsyncReadExt + Unpin>(stream: &mut S) -> Result<u64> {
    stream.read_u64().await.map_err(lost)
}
