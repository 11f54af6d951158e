//! `replicate convert`: a disk image in another format, sparse, with the root by which it can be compared.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use disk::Format;
use engine::{Event, Observer};
use model::{DiskRoot, Error, Kind, Result};
use serde::Serialize;

use super::{Context, Outcome};
use crate::args::{ConvertArgs, FormatArg};
use crate::output::human::{bytes, seconds};
use crate::output::{Printer, Progress};
use crate::{exit, session};

/// What was made.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Converted {
    file: std::path::PathBuf,
    format: Format,
    size: u64,
    data: u64,
    root: DiskRoot,
    seconds: f64,
}

/// Converts.
pub async fn run(context: &Context, args: ConvertArgs) -> Outcome {
    let began = Instant::now();
    let format = target_format(&args.target, args.format)?;
    let from = source_format(context.printer, &args.source, args.source_format).await?;
    let reader = disk::open_file(&args.source, from).await?;
    let size = reader.size();
    let writer = disk::create_file(&args.target, format, size, None).await?;
    let progress = Arc::new(Progress::new(context.printer));
    let meter = Shown { progress: progress.as_ref(), total: AtomicU64::new(0), done: AtomicU64::new(0) };
    // dropped in the middle, the writer takes its half of a file away
    let moved = session::until_interrupted(disk::transfer(&*reader, vec![writer], &meter)).await;
    progress.finish();
    let written =
        moved?.into_iter().next().unwrap_or_else(|| Err(Error::new(Kind::Permanent, "nothing was written")))?;
    let made = Converted {
        file: args.target,
        format,
        size,
        data: written.received,
        root: written.root,
        seconds: began.elapsed().as_secs_f64(),
    };
    context.printer.result(&made, text);
    Ok(exit::DONE)
}

fn text(made: &Converted) -> String {
    let (file, size, data) = (made.file.display(), bytes(made.size), bytes(made.data));
    let head = format!("{file}: {}, {size} with {data} of data, in {}\n", made.format, seconds(made.seconds));
    format!("{head}  root {} (equal disks have equal roots, in whatever format)\n", made.root.to_hex())
}

/// The format that a person's file has: as told, else by its first bytes, which is then said.
pub async fn source_format(printer: Printer, path: &Path, told: Option<FormatArg>) -> Result<Format> {
    if let Some(told) = told {
        return Ok(plain(told));
    }
    let found = disk::detect(path).await?;
    let (format, how) = match found {
        Some(format) => (format, "by its first bytes"),
        None => (Format::Raw, "for want of another sign"),
    };
    printer.remark(&format!("{}: taken as {format}, {how}", path.display()));
    Ok(format)
}

fn target_format(path: &Path, told: Option<FormatArg>) -> Result<Format> {
    let by_name = match path.extension().and_then(|end| end.to_str()) {
        Some("qcow2") => Some(Format::Qcow2),
        Some("raw" | "img") => Some(Format::Raw),
        _ => None,
    };
    told.map(plain).or(by_name).ok_or_else(|| {
        Error::new(Kind::Invalid, format!("cannot tell what format {} shall have", path.display()))
            .hint("let its name end in .qcow2, .raw or .img, or say --format")
    })
}

fn plain(format: FormatArg) -> Format {
    match format {
        FormatArg::Raw => Format::Raw,
        FormatArg::Qcow2 => Format::Qcow2,
    }
}

/// A transfer's progress as the terminal shows it.
struct Shown<'a> {
    progress: &'a Progress,
    total: AtomicU64,
    done: AtomicU64,
}

impl disk::Progress for Shown<'_> {
    fn expect(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    fn looked(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let total = self.total.load(Ordering::Relaxed);
        self.progress.event(&Event::Progress { run: None, what: "convert".to_owned(), done, total });
    }
}
