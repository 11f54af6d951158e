//! Increments equal a full re-read; a cursor that is lost or unknown falls back to everything.

use model::{Cursor, DiskName};

use super::content::{Content, pattern};
use super::{Bench, Check, Stop, ensure, skip};
use crate::{Capture, Outcome};

pub(super) async fn check(bench: &Bench<'_>) {
    bench.check("changes.complete", "base and changes equal a full re-read", complete(bench)).await;
    bench.check("changes.few", "an increment lists what changed, not everything", few(bench)).await;
    bench.check("changes.abandoned", "changes of an abandoned capture are in the next one", abandoned(bench)).await;
    bench
        .check("changes.foreign-cursor", "an unknown cursor leads to a full read, with a reason", foreign(bench))
        .await;
    bench.check("changes.lost", "a lost change map leads to a full read, with a reason", lost(bench)).await;
}

/// Everything of every disk of a capture.
async fn full(bench: &Bench<'_>, capture: &Capture) -> Check<Vec<(DiskName, Content)>> {
    let mut all = Vec::new();
    for disk in &capture.disks {
        let reader = bench.source()?.open(capture, &disk.name, false).await?;
        all.push((disk.name.clone(), Content::read(reader.as_ref()).await?));
    }
    Ok(all)
}

/// Takes a capture and commits it: the base of what comes.
async fn base(bench: &Bench<'_>, step: &str) -> Check<(Cursor, Vec<(DiskName, Content)>)> {
    let capture = bench.capture(step, None).await?;
    let content = full(bench, &capture).await?;
    let Some(cursor) = capture.cursor.clone() else { return skip("the site does not know changes") };
    bench.source()?.release(&capture, Outcome::Committed).await?;
    Ok((cursor, content))
}

/// Base and changes against the whole capture; tells how many bytes the changes had.
async fn compare(bench: &Bench<'_>, base: &[(DiskName, Content)], capture: &Capture) -> Check<u64> {
    let mut listed = 0;
    let after = full(bench, capture).await?;
    for ((disk, before), (_, after)) in base.iter().zip(&after) {
        let reader = bench.source()?.open(capture, disk, true).await?;
        let told = capture.disks.iter().find(|d| d.name == *disk).is_some_and(|d| d.incremental);
        ensure(reader.is_incremental() == told, || format!("disk {disk}: the capture and its reader disagree"))?;
        if !told {
            let reason = capture.disks.iter().find(|d| d.name == *disk).and_then(|d| d.reason.clone());
            // safe, though slow: everything is read
            return skip(&format!("disk {disk} is not incremental: {}", reason.unwrap_or_default()));
        }
        let mut built = before.clone();
        let extents = built.overlay(reader.as_ref()).await?;
        listed += extents.iter().map(|extent| extent.len).sum::<u64>();
        if let Some(difference) = after.difference(&built) {
            return Err(Stop::Failed(format!("disk {disk}: base and changes are not the disk: {difference}")));
        }
    }
    Ok(listed)
}

async fn complete(bench: &Bench<'_>) -> Check {
    let (cursor, before) = base(bench, "changes-base").await?;
    let mut written = true;
    for (index, (disk, _)) in before.iter().enumerate() {
        // a short range across a 64 KiB border, and one at the end of a block
        for (offset, len) in [(3 * 65_536 - 512, 1024), (7 * 65_536 + 4096, 4096)] {
            match bench.guest_writes(disk, offset, &pattern(100 + index as u64, len)).await {
                Err(Stop::Skipped(_)) => written = false,
                other => other?,
            }
        }
    }
    let capture = bench.capture("changes-next", Some(cursor)).await?;
    let listed = compare(bench, &before, &capture).await?;
    bench.source()?.release(&capture, Outcome::Abandoned).await?;
    let how = if written { "after writes of 5 KiB to each disk" } else { "of whatever the guest wrote by itself" };
    Ok(format!("{listed} bytes {how}"))
}

async fn few(bench: &Bench<'_>) -> Check {
    let (cursor, before) = base(bench, "few-base").await?;
    let capture = bench.capture("few-next", Some(cursor)).await?;
    let listed = compare(bench, &before, &capture).await?;
    let whole: u64 = capture.disks.iter().map(|disk| disk.size).sum();
    bench.source()?.release(&capture, Outcome::Abandoned).await?;
    ensure(listed < whole / 2, || format!("{listed} of {whole} bytes are listed though hardly anything changed"))?;
    Ok(format!("{listed} of {whole} bytes"))
}

async fn abandoned(bench: &Bench<'_>) -> Check {
    let (cursor, before) = base(bench, "abandoned-base").await?;
    let Some((disk, _)) = before.first() else { return skip("the machine has no disk") };
    bench.guest_writes(disk, 5 * 65_536, &pattern(201, 512)).await?;
    let given_up = bench.capture("abandoned-first", Some(cursor.clone())).await?;
    bench.guest_writes(disk, 9 * 65_536, &pattern(202, 512)).await?;
    bench.source()?.release(&given_up, Outcome::Abandoned).await?;
    let capture = bench.capture("abandoned-next", Some(cursor)).await?;
    let listed = compare(bench, &before, &capture).await?;
    bench.source()?.release(&capture, Outcome::Abandoned).await?;
    Ok(format!("{listed} bytes"))
}

/// A capture that must not be incremental, and must say why.
async fn falls_back(bench: &Bench<'_>, step: &str, cursor: Cursor) -> Check {
    let capture = bench.capture(step, Some(cursor)).await?;
    let mut why = String::new();
    for disk in &capture.disks {
        ensure(!disk.incremental, || format!("disk {} is told to be incremental", disk.name))?;
        why = disk.reason.clone().unwrap_or_default();
        ensure(!why.is_empty(), || format!("disk {} does not say why it is read in full", disk.name))?;
        let reader = bench.source()?.open(&capture, &disk.name, true).await?;
        Content::read(reader.as_ref()).await?;
    }
    bench.source()?.release(&capture, Outcome::Abandoned).await?;
    Ok(why)
}

async fn foreign(bench: &Bench<'_>) -> Check {
    falls_back(bench, "foreign-cursor", Cursor::new("conformance-no-such-cursor")?).await
}

async fn lost(bench: &Bench<'_>) -> Check {
    let (cursor, _) = base(bench, "lost-base").await?;
    match bench.probe.lose_changes(&bench.server()?).await {
        None => return skip("the change map cannot be lost from here"),
        Some(done) => done?,
    }
    falls_back(bench, "lost-next", cursor).await
}
