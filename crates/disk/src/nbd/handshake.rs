//! The beginning of a connection: options are haggled over until the client chooses an export or goes.

use std::sync::Arc;

use model::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::Export;
use super::wire::{self, Fields, broken, info, option, receive, reply, send};
use crate::DiskRead;

/// Options that a client may send: more is no haggling.
const MOST_OPTIONS: usize = 256;

/// What was agreed on.
pub(super) struct Session {
    pub disk: Arc<dyn DiskRead>,
    pub structured: bool,
    /// Whether the client may ask what is data and what is zero.
    pub status: bool,
}

/// What an option does to the haggling.
enum Next {
    Go(Session),
    End,
    More,
}

struct Talk<'a, W> {
    exports: &'a [Export],
    output: &'a mut W,
    no_zeroes: bool,
    structured: bool,
    /// The export that metadata contexts were set for.
    status_of: Option<usize>,
}

/// Greets the client; `None` if it goes without choosing.
pub(super) async fn run<R, W>(exports: &[Export], input: &mut R, output: &mut W) -> Result<Option<Session>>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut greeting = wire::GREETING.to_be_bytes().to_vec();
    greeting.extend(wire::OPTION.to_be_bytes());
    greeting.extend((wire::FIXED_NEWSTYLE | wire::NO_ZEROES).to_be_bytes());
    send(output, &greeting).await?;
    let Some(flags) = receive::<4>(input).await? else { return Ok(None) };
    let flags = u32::from_be_bytes(flags);
    if flags & !u32::from(wire::FIXED_NEWSTYLE | wire::NO_ZEROES) != 0 {
        return Err(broken("it wants a handshake that is not known"));
    }
    let no_zeroes = flags & u32::from(wire::NO_ZEROES) != 0;
    let mut talk = Talk { exports, output, no_zeroes, structured: false, status_of: None };
    for _ in 0..MOST_OPTIONS {
        let Some(head) = receive::<16>(input).await? else { return Ok(None) };
        let mut head = Fields(&head);
        let (Some(wire::OPTION), Some(code), Some(len)) = (head.u64(), head.u32(), head.u32()) else {
            return Err(broken("it sent something that is no option"));
        };
        if len > wire::LONGEST_OPTION {
            talk.answer(code, reply::TOO_BIG, &[]).await?;
            return Err(broken(format!("it sent an option of {len} bytes")));
        }
        let mut data = vec![0; len as usize];
        input.read_exact(&mut data).await.map_err(broken)?;
        match talk.option(code, &data).await? {
            Next::Go(session) => return Ok(Some(session)),
            Next::End => return Ok(None),
            Next::More => {}
        }
    }
    Err(broken("it haggles without end"))
}

impl<W: AsyncWrite + Unpin> Talk<'_, W> {
    async fn answer(&mut self, code: u32, kind: u32, data: &[u8]) -> Result<()> {
        let mut bytes = wire::OPTION_REPLY.to_be_bytes().to_vec();
        bytes.extend(code.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        send(self.output, &bytes).await
    }

    fn find(&self, name: &str) -> Option<usize> {
        if name.is_empty() { Some(0) } else { self.exports.iter().position(|export| export.name == name) }
    }

    fn session(&self, index: usize) -> Session {
        let status = self.structured && self.status_of == Some(index);
        Session { disk: self.exports[index].disk.clone(), structured: self.structured, status }
    }

    async fn option(&mut self, code: u32, data: &[u8]) -> Result<Next> {
        match code {
            option::EXPORT_NAME => return self.export_name(data).await,
            option::ABORT => {
                self.answer(code, reply::ACK, &[]).await?;
                return Ok(Next::End);
            }
            option::LIST if data.is_empty() => {
                let exports = self.exports;
                for export in exports {
                    let mut entry = (export.name.len() as u32).to_be_bytes().to_vec();
                    entry.extend(export.name.as_bytes());
                    self.answer(code, reply::SERVER, &entry).await?;
                }
                self.answer(code, reply::ACK, &[]).await?;
            }
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                self.answer(code, reply::ACK, &[]).await?;
            }
            option::INFO | option::GO => return self.go(code, data).await,
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(code, data).await?,
            option::LIST | option::STRUCTURED_REPLY => self.answer(code, reply::INVALID, &[]).await?,
            _ => self.answer(code, reply::UNSUPPORTED, &[]).await?,
        }
        Ok(Next::More)
    }

    /// The old way to choose, which knows no refusal but to hang up.
    async fn export_name(&mut self, data: &[u8]) -> Result<Next> {
        let found = std::str::from_utf8(data).ok().and_then(|name| self.find(name));
        let Some(index) = found else { return Err(broken("it asked for an export that there is not")) };
        let mut bytes = self.exports[index].disk.size().to_be_bytes().to_vec();
        bytes.extend(wire::EXPORT_FLAGS.to_be_bytes());
        if !self.no_zeroes {
            bytes.resize(bytes.len() + 124, 0);
        }
        send(self.output, &bytes).await?;
        Ok(Next::Go(self.session(index)))
    }

    async fn go(&mut self, code: u32, data: &[u8]) -> Result<Next> {
        let mut fields = Fields(data);
        let parsed = fields.text().zip(fields.u16());
        let Some((name, count)) = parsed.filter(|(_, count)| fields.0.len() == 2 * usize::from(*count)) else {
            self.answer(code, reply::INVALID, &[]).await?;
            return Ok(Next::More);
        };
        let Some(index) = self.find(name) else {
            self.answer(code, reply::UNKNOWN, b"no such export").await?;
            return Ok(Next::More);
        };
        let wanted: Vec<u16> = (0..count).filter_map(|_| fields.u16()).collect();
        let mut export = info::EXPORT.to_be_bytes().to_vec();
        export.extend(self.exports[index].disk.size().to_be_bytes());
        export.extend(wire::EXPORT_FLAGS.to_be_bytes());
        self.answer(code, reply::INFO, &export).await?;
        if wanted.contains(&info::BLOCK_SIZE) {
            let mut sizes = info::BLOCK_SIZE.to_be_bytes().to_vec();
            // any byte may be asked for; a leaf is what a vault finds at once
            for size in [1, crate::LEAF as u32, wire::LONGEST] {
                sizes.extend(size.to_be_bytes());
            }
            self.answer(code, reply::INFO, &sizes).await?;
        }
        self.answer(code, reply::ACK, &[]).await?;
        Ok(if code == option::GO { Next::Go(self.session(index)) } else { Next::More })
    }

    async fn contexts(&mut self, code: u32, data: &[u8]) -> Result<()> {
        let mut fields = Fields(data);
        let parsed = fields.text().zip(fields.u32());
        let Some((name, count)) = parsed.filter(|_| self.structured) else {
            return self.answer(code, reply::INVALID, &[]).await;
        };
        let queries: Option<Vec<&str>> = (0..count.min(wire::LONGEST_OPTION)).map(|_| fields.text()).collect();
        let Some(queries) = queries.filter(|_| fields.0.is_empty()) else {
            return self.answer(code, reply::INVALID, &[]).await;
        };
        let Some(index) = self.find(name) else {
            return self.answer(code, reply::UNKNOWN, b"no such export").await;
        };
        let set = code == option::SET_META_CONTEXT;
        let listed = |query: &&str| *query == wire::ALLOCATION || (!set && *query == "base:");
        let known = queries.iter().any(listed) || (!set && queries.is_empty());
        if set {
            self.status_of = known.then_some(index);
        }
        if known {
            let mut context = wire::ALLOCATION_ID.to_be_bytes().to_vec();
            context.extend(wire::ALLOCATION.as_bytes());
            self.answer(code, reply::META_CONTEXT, &context).await?;
        }
        self.answer(code, reply::ACK, &[]).await
    }
}
