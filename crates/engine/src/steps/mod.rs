//! The durable steps of a run, one per file. Each is begun and finished in the journal, may be executed any number of times, and is
//! skipped once it is done.

pub(crate) mod capture;
pub(crate) mod hide;
pub(crate) mod publish;
pub(crate) mod register;
pub(crate) mod relay;
pub(crate) mod retire;
pub(crate) mod seal;
pub(crate) mod transfer;
pub(crate) mod verify;

use std::sync::Arc;

use cloud::{Capture, Cloud, Source};
use disk::DiskRead;
use model::{DiskName, Error, Kind, Place, PointDisk, Result, Token};
use serde::{Deserialize, Serialize};

use crate::records::{CursorRecord, RunRecord, policy_key};
use crate::{Engine, ImportRequest};

/// Where a run's bytes come from.
pub(crate) enum Origin {
    /// A capture at a site.
    Site(Arc<dyn Cloud>),
    /// Disk images on this host.
    Files(ImportRequest),
}

/// What the steps of one run share.
pub(crate) struct Context<'a> {
    pub engine: &'a Engine,
    pub run: RunRecord,
    pub origin: Origin,
    /// What the capture is incremental against.
    pub cursor: Option<CursorRecord>,
}

/// What a transfer to one destination produced; journalled, so that registering does not need it again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transferred {
    /// The provider's disks, for an image.
    pub images: Vec<cloud::ImageDisk>,
    /// The disks with the roots that the destination computed.
    pub disks: Vec<PointDisk>,
    pub received: u64,
    pub fresh: u64,
    pub stored: u64,
}

impl Context<'_> {
    /// The token of a step of this run.
    pub(crate) fn token(&self, step: &str) -> Token {
        token(self.engine, &self.run, step)
    }

    /// The source, if the bytes come from a site.
    pub(crate) fn source(&self) -> Result<Option<&dyn Source>> {
        match &self.origin {
            Origin::Files(_) => Ok(None),
            Origin::Site(site) => site.source().map(Some).ok_or_else(|| {
                Error::new(Kind::Invalid, format!("cannot capture servers of site {}", site.site()))
                    .because(format!("a {} site is not a source", site.kind()))
            }),
        }
    }

    /// Opens a disk of the capture.
    pub(crate) async fn open(
        &self,
        capture: &Capture,
        name: &DiskName,
        incremental: bool,
    ) -> Result<Box<dyn DiskRead>> {
        match &self.origin {
            Origin::Site(_) => match self.source()? {
                Some(source) => source.open(capture, name, incremental).await,
                None => Err(Error::new(Kind::Invalid, format!("cannot open disk {name}"))),
            },
            Origin::Files(request) => {
                let index = capture.disks.iter().position(|disk| disk.name == *name);
                let file = index.and_then(|index| request.files.get(index)).ok_or_else(|| {
                    Error::new(Kind::Invalid, format!("cannot open disk {name}")).because("no file was given for it")
                })?;
                crate::files::open(file, request.format).await
            }
        }
    }

    /// Ledger key of the cursor, for runs that have one.
    pub(crate) fn cursor_key(&self) -> Option<String> {
        self.run.policy.as_ref().map(|policy| policy_key(policy, &self.run.server))
    }
}

/// The token of a step of a run.
pub(crate) fn token(engine: &Engine, run: &RunRecord, step: &str) -> Token {
    Token {
        owner: engine.owner.clone(),
        policy: run.policy.clone(),
        server: run.server.clone(),
        run: run.id.clone(),
        step: step.to_owned(),
    }
}

/// The step under which a disk of an image is made.
pub(crate) fn disk_step(disk: &DiskName) -> String {
    format!("disk-{disk}")
}

/// Wraps an error with the destination that it happened at.
pub(crate) fn at(place: &Place, error: Error) -> Error {
    error.within(format!("cannot replicate to {place}"))
}
