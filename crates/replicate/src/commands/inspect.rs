//! `replicate inspect`: what is inside a disk image or a restore point, without booting it.

use std::sync::Arc;

use disk::{DiskRead, Inspection};
use model::Error;
use serde::Serialize;

use super::convert::source_format;
use super::{Context, Outcome, Stop, point};
use crate::args::InspectArgs;
use crate::{exit, output, session};

/// One disk that was looked into.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inspected {
    /// The file, or the disk of a point.
    pub disk: String,
    /// What is inside.
    #[serde(flatten)]
    pub inside: Inspection,
}

/// Inspects.
pub async fn run(context: &Context, args: InspectArgs) -> Outcome {
    let disks = session::until_interrupted(async { Ok(open(context, &args).await) }).await??;
    let mut all = Vec::new();
    for (name, disk) in disks {
        let inside = session::until_interrupted(disk::inspect(disk)).await?;
        all.push(Inspected { disk: name, inside });
    }
    context.printer.result(&all, |all| output::inspect::text(all));
    Ok(exit::DONE)
}

/// A file if there is one of that name, else the disks of a point.
async fn open(context: &Context, args: &InspectArgs) -> Result<Vec<(String, Arc<dyn DiskRead>)>, Stop> {
    let path = std::path::Path::new(&args.what);
    if path.exists() {
        let format = source_format(context.printer, path, args.format).await?;
        let disk = disk::open_file(path, format).await?;
        return Ok(vec![(path.display().to_string(), disk.into())]);
    }
    if args.what.contains('/') {
        let error = Error::new(model::Kind::NotFound, format!("cannot inspect {}", path.display()));
        return Err(error.because("there is no such file").into());
    }
    let settings = context.settings()?;
    let opened = point::open(context, &settings, &args.what, args.from.as_deref()).await?;
    let mut disks: Vec<(String, Arc<dyn DiskRead>)> = Vec::new();
    for name in opened.disks(args.disk.as_deref())? {
        let disk = opened.disk(&name).await?;
        let title = format!("{name} of {} as of point {} from {}", opened.point.server, opened.point.id, opened.place);
        disks.push((title, disk.into()));
    }
    Ok(disks)
}
