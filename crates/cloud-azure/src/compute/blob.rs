//! The page blob behind a SAS: pages listed and compared, ranges read, pages put.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use model::{Error, Kind, Result};
use reqwest::{RequestBuilder, Response, StatusCode};

use super::access::{Access, expose};
use super::error::{Refusal, transport};
use super::pages::{self, Page};

/// The version of the blob interface that is spoken: the first that pages listings of ranges is 2020-10-02.
pub(super) const VERSION: &str = "2021-12-02";
/// The longest that a request may take.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(120);
/// The largest listing: ten thousand ranges of some hundred characters.
const LISTING: usize = 4 << 20;
/// The most that one request puts.
pub(super) const PUT: u64 = 4 << 20;

/// Lists pages that hold something within `from..to`; with `since`, those that differ from that snapshot.
pub(super) async fn list(
    http: &reqwest::Client,
    access: &Access,
    since: Option<&Access>,
    (from, to): (u64, u64),
    most: usize,
) -> Result<Page> {
    let operation = || format!("cannot list the pages of bytes {from} to {to}");
    let before = match since {
        Some(since) => Some((since, since.url().await?)),
        None => None,
    };
    let answer = send(access, &operation, |url| {
        let url = format!("{url}&comp=pagelist&maxresults={most}");
        let mut request = http.get(url).header("x-ms-range", format!("bytes={from}-{}", to - 1));
        if let Some((_, (previous, _))) = &before {
            request = request.header("x-ms-previous-snapshot-url", expose(previous));
        }
        request
    })
    .await;
    let answer = match (answer, before) {
        (Err(error), Some((since, (_, number)))) if error.kind() == Kind::Denied => {
            // which of the two addresses was refused is not told
            since.refused(number).await;
            return Err(Error::new(Kind::Transient, operation()).because(error.chain()));
        }
        (answer, _) => answer?,
    };
    let text = body(&operation(), answer, LISTING).await?;
    pages::parse(&text).map_err(|error| error.within(operation()))
}

/// Reads exactly `len` bytes at `offset`.
pub(super) async fn read(http: &reqwest::Client, access: &Access, offset: u64, len: usize) -> Result<Bytes> {
    let operation = || format!("cannot read {len} bytes at {offset}");
    let range = format!("bytes={offset}-{}", offset + (len as u64).saturating_sub(1));
    let answer = send(access, &operation, |url| http.get(url).header("x-ms-range", &range)).await?;
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        return Err(Error::new(Kind::Transient, operation()).because("the answer is no range"));
    }
    let body = body(&operation(), answer, len).await?;
    if body.len() < len {
        let why = format!("the answer ended after {} bytes", body.len());
        return Err(Error::new(Kind::Transient, operation()).because(why));
    }
    Ok(body.into())
}

/// Puts whole pages at `offset`. Repeating it is harmless.
pub(super) async fn put(http: &reqwest::Client, access: &Access, offset: u64, data: Bytes) -> Result<()> {
    let end = offset + data.len() as u64 - 1;
    let operation = || format!("cannot put {} bytes at {offset}", data.len());
    send(access, &operation, |url| {
        http.put(format!("{url}&comp=page"))
            .header("x-ms-range", format!("bytes={offset}-{end}"))
            .header("x-ms-page-write", "update")
            .body(data.clone())
    })
    .await
    .map(drop)
}

/// Lets the service copy whole pages to `offset` from the same place behind another SAS: the bytes do not come here. The
/// service compares what it has read there with `crc`, and copies nothing else. Repeating it is harmless.
pub(super) async fn put_from(
    http: &reqwest::Client,
    access: &Access,
    source: &Access,
    (offset, len): (u64, u64),
    crc: u64,
) -> Result<()> {
    let range = format!("bytes={offset}-{}", offset + len - 1);
    let operation = || format!("cannot copy {len} bytes at {offset}");
    let (from, number) = source.url().await?;
    let answer = send(access, &operation, |url| {
        http.put(format!("{url}&comp=page"))
            .header("x-ms-range", &range)
            .header("x-ms-source-range", &range)
            .header("x-ms-copy-source", expose(&from))
            .header("x-ms-source-content-crc64", STANDARD.encode(crc.to_le_bytes()))
            .header("x-ms-page-write", "update")
            .header("content-length", "0")
    })
    .await;
    match answer {
        // the source's address has run out; the next attempt has another one
        Err(error) if error.chain().contains("CannotVerifyCopySource") => {
            source.refused(number).await;
            Err(Error::new(Kind::Transient, operation()).because(error.chain()))
        }
        Err(error) if error.chain().contains("Crc64Mismatch") => Err(Error::new(Kind::Damaged, operation())
            .because(format!("other bytes are there than were written: {}", error.chain()))
            .hint("have `replicate verify` read the images there: a damaged one is no longer built upon")),
        answer => answer.map(drop),
    }
}

/// Sends a request, once more where the address has run out.
async fn send(
    access: &Access,
    operation: &(dyn Fn() -> String + Sync),
    request: impl Fn(&str) -> RequestBuilder + Send + Sync,
) -> Result<Response> {
    let mut renewed = false;
    loop {
        let (url, number) = access.url().await?;
        let request = request(expose(&url)).header("x-ms-version", VERSION).timeout(ANSWER);
        let answer = request.send().await.map_err(|error| transport(&operation(), error))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        if status.is_success() {
            return Ok(answer);
        }
        if status == StatusCode::FORBIDDEN && !renewed {
            renewed = true;
            access.refused(number).await;
            continue;
        }
        let body = answer.bytes().await.unwrap_or_default();
        return Err(Refusal { status, headers: &headers, body: &body }.error(&operation()));
    }
}

/// Reads a body of at most `most` bytes.
pub(super) async fn body(operation: &str, mut answer: Response, most: usize) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| transport(operation, error))? {
        if body.len() + part.len() > most {
            let why = format!("more than {most} bytes came");
            return Err(Error::new(Kind::Damaged, operation).because(why));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}
