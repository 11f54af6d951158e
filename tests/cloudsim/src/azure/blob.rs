//! The page blob behind a SAS: read in ranges, its pages listed and compared, and pages written where the SAS is for an
//! upload. The blob is the disk and a footer of 512 bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::ranges::{self, Range};
use super::state::{Kind, Resource};
use super::vhd::{FOOTER, footer};
use crate::ec2::xml::{Xml, document, node, text};
use crate::error::{Answer, ApiError};
use crate::http::{Request, Response};
use crate::sim::Sim;
use crate::store::BLOCK;
use crate::store::maps::Map;

const LARGEST_WRITE: u64 = 4 << 20;
/// Ranges on one page of a listing.
const RANGES: usize = 10_000;

pub(super) fn name(request: &Request) -> &'static str {
    match (request.method.as_str(), request.query("comp")) {
        ("PUT", Some("page")) if request.header("x-ms-page-write") == Some("clear") => "ClearPages",
        ("PUT", Some("page")) if request.header("x-ms-copy-source").is_some() => "PutPageFromURL",
        ("PUT", Some("page")) => "PutPage",
        ("GET", Some("pagelist")) if previous(request).is_some() => "GetPageRangesDiff",
        ("GET", Some("pagelist")) => "GetPageRanges",
        ("GET", None) => "GetBlob",
        ("HEAD", None) => "GetBlobProperties",
        _ => "Unknown",
    }
}

fn previous(request: &Request) -> Option<&str> {
    request.header("x-ms-previous-snapshot-url").or_else(|| request.query("prevsnapshot"))
}

pub(super) fn refusal(error: &ApiError) -> Response {
    let body = document("Error", None, &[text("Code", &error.code), text("Message", &error.message)]);
    Response::new(error.status, "application/xml", body).with("x-ms-error-code", error.code.clone())
}

/// What a SAS opens: the resource, and whether it may be written.
fn open(sim: &Sim, path: &str, query: impl Fn(&str) -> Option<String>) -> Answer<(Resource, bool)> {
    let denied = || {
        let message = "Server failed to authenticate the request. Make sure the value of Authorization header is \
                       formed correctly including the signature.";
        ApiError::new(403, "AuthenticationFailed", message)
    };
    let name = path.split('/').nth(1).unwrap_or_default();
    sim.with(|world| {
        let access = world.azure.accesses.get(name).filter(|it| world.now() < it.expires).ok_or_else(denied)?;
        if query("sig").as_deref() != Some(&format!("{}=", access.signature)) || query("si").as_deref() != Some(name) {
            return Err(denied());
        }
        let found = world.azure.resources.get(&access.resource).ok_or_else(denied)?;
        Ok((found.clone(), access.write))
    })
}

pub(super) fn call(sim: &Sim, path: &str, request: &Request) -> Answer<Response> {
    if path.starts_with("console/") {
        return super::machines::console(sim, path, request);
    }
    let (resource, write) = open(sim, path, |name| request.query(name).map(str::to_owned))?;
    let limits = sim.with(|world| world.settings.limits.clone());
    let busy = || ApiError::new(503, "ServerBusy", "The server is busy.");
    let blob = format!("blob/{}", resource.unique);
    let _flight = sim.limiter.enter(&blob, limits.blob_parallel).ok_or_else(busy)?;
    let (size, refill) = limits.blob_requests;
    sim.limiter.take(&[(blob.clone(), size, refill)]).map_err(|_| busy())?;
    match name(request) {
        "PutPage" | "ClearPages" if write => put(sim, &resource, request),
        "PutPageFromURL" if write => copy(sim, &resource, request),
        "PutPage" | "ClearPages" | "PutPageFromURL" => {
            let message = "This request is not authorized to perform this operation using this permission.";
            Err(ApiError::new(403, "AuthorizationPermissionMismatch", message))
        }
        "GetPageRanges" | "GetPageRangesDiff" => list(sim, &resource, request),
        "GetBlob" => get(sim, &resource, request),
        "GetBlobProperties" => Ok(described(Response::new(200, "application/octet-stream", ""), &resource)
            .with("x-ms-blob-content-length", (resource.bytes + FOOTER).to_string())),
        _ => Err(ApiError::refuse("UnsupportedHttpVerb", "The resource doesn't support the specified Http Verb.")),
    }
}

/// What the log tells of a call: the disk by its name, the range, and how much came and went.
pub(super) fn tell(sim: &Sim, path: &str, request: &Request, done: &Response, line: &mut Value) {
    let name = path.split('/').nth(1).unwrap_or_default();
    line["resource"] = json!(sim.with(|world| {
        let access = world.azure.accesses.get(name)?;
        Some(world.azure.resources.get(&access.resource)?.name.clone())
    }));
    line["range"] = json!(request.header("x-ms-range").or_else(|| request.header("range")));
    line["sent"] = json!(done.body.len());
    if !request.body.is_empty() {
        line["received"] = json!(request.body.len());
        line["content"] = json!(crate::store::hash_hex(&request.body)[..16]);
    }
}

fn described(response: Response, resource: &Resource) -> Response {
    response
        .with("x-ms-blob-type", "PageBlob")
        .with("x-ms-version", "2025-11-05")
        .with("x-ms-blob-sequence-number", "1")
        .with("accept-ranges", "bytes")
        .with("last-modified", resource.created.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
        .with("etag", format!("\"0x{}\"", resource.unique[..8].to_uppercase()))
}

/// The range of a request, the end excluded: `x-ms-range` before `Range`.
fn range(request: &Request, size: u64) -> Answer<Option<(u64, u64)>> {
    let Some(text) = request.header("x-ms-range").or_else(|| request.header("range")) else { return Ok(None) };
    let wrong = || ApiError::new(416, "InvalidRange", "The range specified is invalid for the current size.");
    let (start, end) = text.strip_prefix("bytes=").and_then(|it| it.split_once('-')).ok_or_else(wrong)?;
    let start: u64 = start.parse().map_err(|_| wrong())?;
    let end = if end.is_empty() { size } else { end.parse::<u64>().map_err(|_| wrong())?.saturating_add(1).min(size) };
    if start >= size || end <= start { Err(wrong()) } else { Ok(Some((start, end))) }
}

/// The blocks of a resource as they are now; for a disk they are read for this, and let go of by the caller.
fn map_of(sim: &Sim, resource: &Resource) -> Answer<Map> {
    match &resource.kind {
        Kind::Snapshot { .. } => Ok(sim.maps.share(&resource.unique, &sim.blocks).unwrap_or_default()),
        Kind::Disk { .. } => {
            let writer = sim.with(|world| world.writer());
            let file = sim.azure_disk(&resource.unique);
            Ok(crate::store::volume::read(&file, &Map::new(), writer, &sim.blocks)?)
        }
    }
}

fn release(sim: &Sim, map: &Map) {
    map.values().for_each(|block| sim.blocks.release(&block.hash));
}

fn get(sim: &Sim, resource: &Resource, request: &Request) -> Answer<Response> {
    let size = resource.bytes + FOOTER;
    let asked = range(request, size)?;
    let (start, end) = asked.unwrap_or((0, size));
    if end - start > 64 << 20 {
        let message = "Ask for at most 64 MiB at once of this simulator.";
        return Err(ApiError::new(400, "OutOfRangeInput", message));
    }
    let out = bytes(sim, resource, start, end)?;
    let status = if asked.is_some() { 206 } else { 200 };
    let answer = described(Response::new(status, "application/octet-stream", out), resource);
    let part = format!("bytes {start}-{}/{size}", end - 1);
    Ok(if asked.is_some() { answer.with("content-range", part) } else { answer })
}

/// Bytes of the blob: the disk's, and its footer's behind them.
fn bytes(sim: &Sim, resource: &Resource, start: u64, end: u64) -> Answer<Vec<u8>> {
    let mut out = Vec::with_capacity((end - start) as usize);
    let data = start..end.min(resource.bytes);
    if let (Kind::Disk { .. }, false) = (&resource.kind, data.is_empty()) {
        let mut part = vec![0; (data.end - data.start) as usize];
        File::open(sim.azure_disk(&resource.unique))?.read_exact_at(&mut part, data.start)?;
        out = part;
    } else if !data.is_empty() {
        let block = BLOCK as u64;
        for index in data.start / block..data.end.div_ceil(block) {
            let found = sim.maps.with(&resource.unique, |map| map.get(&(index as u32)).copied()).flatten();
            let bytes = found.map_or_else(|| Ok(vec![0; BLOCK]), |it| sim.blocks.read(&it.hash))?;
            let (from, to) = (data.start.max(index * block), data.end.min((index + 1) * block));
            out.extend_from_slice(&bytes[(from - index * block) as usize..(to - index * block) as usize]);
        }
    }
    if end > resource.bytes {
        let foot = footer(resource.bytes);
        let from = start.max(resource.bytes) - resource.bytes;
        out.extend_from_slice(&foot[from as usize..(end - resource.bytes) as usize]);
    }
    Ok(out)
}

/// What the SAS opens that a header's address has.
fn addressed(sim: &Sim, url: &str, header: &str) -> Answer<Resource> {
    let wrong = || ApiError::new(400, "InvalidHeaderValue", header);
    let rest = url.split_once("/azure/blob/").map(|(_, rest)| rest);
    let (path, query) = rest.and_then(|it| it.split_once('?')).ok_or_else(wrong)?;
    let query: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let get = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    open(sim, path, get).map(|(found, _)| found)
}

/// The snapshot that another SAS opens, of the same family.
fn compared(sim: &Sim, resource: &Resource, url: &str) -> Answer<Resource> {
    let found = addressed(sim, url, "x-ms-previous-snapshot-url")?;
    let incremental = |it: &Resource| matches!(it.kind, Kind::Snapshot { incremental: true, .. });
    if found.family != resource.family || !incremental(&found) || !incremental(resource) {
        let message = "The previous snapshot is not of the same incremental snapshot family.";
        return Err(ApiError::new(409, "PreviousSnapshotOperationNotSupported", message));
    }
    if found.created > resource.created {
        let message = "The previous snapshot is newer than the blob.";
        return Err(ApiError::new(409, "PreviousSnapshotCannotBeNewer", message));
    }
    Ok(found)
}

fn list(sim: &Sim, resource: &Resource, request: &Request) -> Answer<Response> {
    let size = resource.bytes + FOOTER;
    let (start, end) = range(request, size)?.unwrap_or((0, size));
    let most = match request.query("maxresults").map(str::parse::<usize>) {
        None => RANGES,
        Some(Ok(most)) if (1..=RANGES).contains(&most) => most,
        Some(_) => return Err(ApiError::refuse("OutOfRangeQueryParameterValue", "maxresults is from 1 to 10000")),
    };
    let old = previous(request).map(|url| compared(sim, resource, url)).transpose()?;
    let new = map_of(sim, resource)?;
    let before = old.as_ref().map(|old| map_of(sim, old)).transpose()?;
    let found = ranges::of(sim, &new, before.as_ref());
    release(sim, &new);
    before.iter().for_each(|map| release(sim, map));
    let mut found = found?;
    if old.is_none() {
        found.push(Range { start: resource.bytes, end: size - 1, cleared: false });
    }
    found.retain(|it| it.end >= start && it.start < end);
    for it in &mut found {
        (it.start, it.end) = (it.start.max(start), it.end.min(end - 1));
    }
    let slow = sim.with(|world| world.settings.limits.ranges_in_time);
    if slow > 0 && found.len() > slow {
        // a fragmented blob is too much for one answer: the client has to ask for less of it
        return Err(ApiError::new(500, "OperationTimedOut", "The operation could not be completed in time."));
    }
    let from: usize = request.query("marker").and_then(|it| it.parse().ok()).unwrap_or_default();
    let shown = found.iter().skip(from).take(most).map(|it| {
        let name = if it.cleared { "ClearRange" } else { "PageRange" };
        node(name, vec![text("Start", it.start), text("End", it.end)])
    });
    let mut body: Vec<Xml> = shown.collect();
    if from + most < found.len() {
        body.push(text("NextMarker", from + most));
    }
    let answer = Response::new(200, "application/xml", document("PageList", None, &body));
    Ok(described(answer, resource).with("x-ms-blob-content-length", size.to_string()))
}

/// Copies pages from behind another SAS. The source is anything that can be read; it may be another family's.
fn copy(sim: &Sim, resource: &Resource, request: &Request) -> Answer<Response> {
    let odd = |what: &str| ApiError::refuse("InvalidHeaderValue", what);
    let (start, end) = range(request, resource.bytes + FOOTER)?.ok_or_else(|| odd("x-ms-range"))?;
    if start % 512 != 0 || end % 512 != 0 {
        return Err(ApiError::new(416, "InvalidPageRange", "The page range specified is invalid."));
    }
    if end - start > LARGEST_WRITE || !request.body.is_empty() {
        let message = "The request body is too large and exceeds the maximum permissible limit.";
        return Err(ApiError::new(413, "RequestBodyTooLarge", message));
    }
    if request.header("x-ms-page-write") != Some("update") {
        return Err(odd("x-ms-page-write is update"));
    }
    let url = request.header("x-ms-copy-source").unwrap_or_default();
    let source = addressed(sim, url, "x-ms-copy-source").map_err(|why| match why.status {
        403 => ApiError::new(403, "CannotVerifyCopySource", &why.message),
        _ => why,
    })?;
    let wanted = request.header("x-ms-source-range").and_then(|it| it.strip_prefix("bytes="));
    let wanted = wanted
        .and_then(|it| it.split_once('-'))
        .and_then(|(from, to)| Some((from.parse::<u64>().ok()?, to.parse::<u64>().ok()?.checked_add(1)?)));
    let (from, to) = wanted.ok_or_else(|| odd("x-ms-source-range"))?;
    if to.checked_sub(from) != Some(end - start) || to > source.bytes + FOOTER {
        return Err(ApiError::new(416, "InvalidRange", "The range specified is invalid for the current size."));
    }
    let data = bytes(sim, &source, from, to)?;
    let sum = STANDARD.encode(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &data).to_le_bytes());
    if request.header("x-ms-source-content-crc64").is_some_and(|wanted| wanted != sum) {
        let message = "The CRC64 value specified in the request did not match with the CRC64 value calculated by the \
                       server.";
        return Err(ApiError::new(400, "Crc64Mismatch", message));
    }
    File::options().write(true).open(sim.azure_disk(&resource.unique))?.write_all_at(&data, start)?;
    Ok(described(Response::new(201, "application/xml", ""), resource))
}

fn put(sim: &Sim, resource: &Resource, request: &Request) -> Answer<Response> {
    let size = resource.bytes + FOOTER;
    let (start, end) = range(request, size)?.ok_or_else(|| {
        ApiError::refuse("MissingRequiredHeader", "An HTTP header that's mandatory for this request is not specified.")
    })?;
    let clear = match request.header("x-ms-page-write") {
        Some("update") => false,
        Some("clear") => true,
        _ => return Err(ApiError::refuse("InvalidHeaderValue", "x-ms-page-write is update or clear")),
    };
    if start % 512 != 0 || end % 512 != 0 {
        return Err(ApiError::new(416, "InvalidPageRange", "The page range specified is invalid."));
    }
    if !clear && end - start > LARGEST_WRITE {
        let message = "The request body is too large and exceeds the maximum permissible limit.";
        return Err(ApiError::new(413, "RequestBodyTooLarge", message));
    }
    if request.body.len() as u64 != if clear { 0 } else { end - start } {
        return Err(ApiError::refuse("InvalidHeaderValue", "The body is not as long as the range"));
    }
    let file = File::options().write(true).open(sim.azure_disk(&resource.unique))?;
    if clear {
        let zeroes = vec![0; BLOCK];
        let mut at = start;
        while at < end {
            let part = (end - at).min(BLOCK as u64);
            file.write_all_at(&zeroes[..part as usize], at)?;
            at += part;
        }
    } else {
        file.write_all_at(&request.body, start)?;
    }
    Ok(described(Response::new(201, "application/xml", ""), resource))
}
