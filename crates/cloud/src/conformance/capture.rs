//! A capture pins one instant of all disks, outlives its process, and leaves the guest as it was.

use disk::DiskRead;
use model::{Consistency, Kind, ServerName};

use super::content::{Content, pattern};
use super::{Bench, Check, Stop, ensure, skip};
use crate::{Capture, Outcome};

pub(super) async fn check(bench: &Bench<'_>) {
    bench.check("servers.described", "every listed server can be described", described(bench)).await;
    bench.check("capture.complete", "a capture has all disks of the machine", complete(bench)).await;
    bench.check("capture.stable", "a capture reads the same later, in another process", stable(bench)).await;
    bench.check("capture.one-instant", "all disks of a capture show one instant", one_instant(bench)).await;
    bench.check("capture.thawed", "the guest runs on after a capture", thawed(bench)).await;
    bench.check("capture.bounds", "a read behind the end is an error, never a short answer", bounds(bench)).await;
    bench.check("release.twice", "releasing a capture twice is harmless", release_twice(bench)).await;
}

async fn described(bench: &Bench<'_>) -> Check {
    let (source, wanted) = (bench.source()?, bench.server()?);
    let servers = source.servers().await?;
    ensure(servers.iter().any(|server| server.name == wanted), || format!("server {wanted} is not listed"))?;
    for server in &servers {
        let one = source.describe(&server.name).await?;
        ensure(one.name == server.name, || format!("server {} is described as {}", server.name, one.name))?;
    }
    let absent = ServerName::new("conformance-no-such-server")?;
    match source.describe(&absent).await {
        Err(error) if error.kind() == Kind::NotFound => Ok(format!("{} servers", servers.len())),
        Err(error) => Err(Stop::Failed(format!("an absent server is not told as such: {}", error.chain()))),
        Ok(_) => Err(Stop::Failed("an absent server is described".to_owned())),
    }
}

async fn complete(bench: &Bench<'_>) -> Check {
    let capture = bench.capture("complete", None).await?;
    let names = |capture: &Capture| capture.disks.iter().map(|disk| disk.name.to_string()).collect::<Vec<_>>();
    let machine: Vec<String> = capture.machine.disks.iter().map(|disk| disk.name.to_string()).collect();
    ensure(!machine.is_empty(), || "the machine has no disk".to_owned())?;
    ensure(names(&capture) == machine, || format!("disks {:?} of machine {machine:?}", names(&capture)))?;
    for disk in &capture.disks {
        let reader = bench.source()?.open(&capture, &disk.name, false).await?;
        ensure(reader.size() == disk.size, || {
            format!("disk {} has {} bytes, not {}", disk.name, reader.size(), disk.size)
        })?;
        ensure(!reader.is_incremental(), || format!("disk {} was asked in full", disk.name))?;
    }
    Ok(format!("{} disks", capture.disks.len()))
}

async fn read_disks(bench: &Bench<'_>, capture: &Capture) -> Check<Vec<Content>> {
    let mut all = Vec::new();
    for disk in &capture.disks {
        let reader = bench.source()?.open(capture, &disk.name, false).await?;
        all.push(Content::read(reader.as_ref()).await?);
    }
    Ok(all)
}

async fn stable(bench: &Bench<'_>) -> Check {
    let capture = bench.capture("stable", None).await?;
    let first = read_disks(bench, &capture).await?;
    let text = serde_json::to_string(&capture).map_err(|error| Stop::Failed(error.to_string()))?;
    let journalled: Capture = serde_json::from_str(&text).map_err(|error| Stop::Failed(error.to_string()))?;
    ensure(journalled == capture, || "a capture does not survive the journal".to_owned())?;
    let second = read_disks(bench, &journalled).await?;
    for (one, two) in first.iter().zip(&second) {
        if let Some(difference) = one.difference(two) {
            return Err(Stop::Failed(difference));
        }
    }
    let roots: Vec<String> = first.iter().map(|content| content.root().to_hex()[..12].to_owned()).collect();
    Ok(format!("roots {}", roots.join(", ")))
}

/// Every disk gets the mark `before`, then the capture is taken, then the mark `after`: no disk may show `after`.
async fn one_instant(bench: &Bench<'_>) -> Check {
    let server = bench.source()?.describe(&bench.server()?).await?;
    let (before, after) = (pattern(11, 4096), pattern(12, 4096));
    for disk in &server.machine.disks {
        bench.guest_writes(&disk.name, 0, &before).await?;
    }
    let capture = bench.capture("one-instant", None).await?;
    for disk in &server.machine.disks {
        bench.guest_writes(&disk.name, 0, &after).await?;
    }
    for disk in &capture.disks {
        let reader = bench.source()?.open(&capture, &disk.name, false).await?;
        let seen = reader.read_at(0, before.len()).await?;
        ensure(seen != after, || format!("disk {} shows what was written after the capture", disk.name))?;
        ensure(seen == before, || format!("disk {} lacks what was written before the capture", disk.name))?;
    }
    let disks = capture.disks.len();
    Ok(if disks == 1 { "one disk only".to_owned() } else { format!("{disks} disks") })
}

async fn thawed(bench: &Bench<'_>) -> Check {
    let server = bench.server()?;
    if bench.probe.frozen(&server).await.is_none() {
        return skip("whether the guest is frozen cannot be seen from here");
    }
    let request = bench.request("thawed", Consistency::Filesystem, None)?;
    let capture = bench.source()?.capture(&request).await?;
    let frozen = bench.probe.frozen(&server).await;
    bench.source()?.release(&capture, Outcome::Abandoned).await?;
    match frozen {
        Some(Ok(false)) => Ok(format!("consistency {}", capture.consistency)),
        Some(Ok(true)) => Err(Stop::Failed("the guest is frozen after the capture".to_owned())),
        Some(Err(error)) => Err(error.into()),
        None => skip("whether the guest is frozen cannot be seen from here"),
    }
}

async fn bounds(bench: &Bench<'_>) -> Check {
    let capture = bench.capture("bounds", None).await?;
    for disk in &capture.disks {
        let reader = bench.source()?.open(&capture, &disk.name, false).await?;
        let end = reader.size();
        let last = reader.read_at(end - 512, 512).await?;
        ensure(last.len() == 512, || format!("the last sector of {} has {} bytes", disk.name, last.len()))?;
        for (offset, len) in [(end, 512), (end - 512, 1024)] {
            let answer = reader.read_at(offset, len).await;
            ensure(answer.is_err(), || format!("{len} bytes at {offset} of {} were answered", disk.name))?;
        }
    }
    Ok(String::new())
}

async fn release_twice(bench: &Bench<'_>) -> Check {
    let source = bench.source()?;
    for outcome in [Outcome::Abandoned, Outcome::Committed] {
        let capture = bench.capture("release", None).await?;
        source.release(&capture, outcome).await?;
        source.release(&capture, outcome).await?;
        let disk = capture.disks.first().ok_or_else(|| Stop::Failed("the machine has no disk".to_owned()))?;
        let opened = source.open(&capture, &disk.name, false).await;
        let readable = match &opened {
            Ok(reader) => reads(reader.as_ref()).await,
            Err(_) => false,
        };
        ensure(!readable, || format!("capture {} can be read after its release", capture.id))?;
        source.release(&capture, Outcome::Abandoned).await?;
    }
    Ok(String::new())
}

async fn reads(reader: &dyn DiskRead) -> bool {
    reader.read_at(0, 512).await.is_ok()
}
