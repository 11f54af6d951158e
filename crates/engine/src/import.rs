//! Disk images become a restore point: a run like any other, whose capture is the files themselves.

use cloud::{Capture, CapturedDisk};
use model::{
    CaptureId, Consistency, DiskBus, DiskName, DiskSpec, Error, Kind, MachineSpec, Place, Result, ServerName, Tags,
};

use crate::ledger::{Batch, Tree};
use crate::records::{DestinationRecord, RunKind, RunRecord, RunState};
use crate::steps::capture::NAME as CAPTURE;
use crate::{Engine, ImportRequest, RunReport, files};

impl Engine {
    /// Disk images become a point of `request.server` at every destination. The files must not change until the run is done.
    pub async fn import(&self, request: &ImportRequest) -> Result<RunReport> {
        let operation = || format!("cannot import as server {}", request.server);
        let wrong = |why: &str| Error::new(Kind::Invalid, operation()).because(why.to_owned());
        if request.files.is_empty() {
            return Err(wrong("no file is named"));
        }
        if request.to.is_empty() {
            return Err(wrong("no destination is named"));
        }
        for place in &request.to {
            match place {
                Place::Vault(name) => self.known_vault(name).map(|_| ())?,
                Place::Site(name) => self.site(name).map(|_| ())?,
            }
        }
        let run = RunRecord {
            id: self.fresh_run(),
            kind: RunKind::Import,
            policy: None,
            with: None,
            server: request.server.clone(),
            site: None,
            state: RunState::Open,
            started_at: self.now(),
            finished_at: None,
            attempts: 0,
            outcome: None,
            destinations: request.to.iter().cloned().map(DestinationRecord::new).collect(),
            lost: false,
            point: None,
            problem: None,
            warnings: Vec::new(),
            next_try: None,
        };
        let capture = self.files_as_capture(&run, request).await.map_err(|error| error.within(operation()))?;
        let mut batch = Batch::new();
        batch.put(Tree::Runs, run.id.as_str(), &run)?;
        let begun = self.step_begin(&run.id, CAPTURE).await?;
        self.step_finish(&run.id, begun, &capture, batch).await?;
        self.execute(run).await
    }

    async fn files_as_capture(&self, run: &RunRecord, request: &ImportRequest) -> Result<Capture> {
        let (mut disks, mut specs) = (Vec::new(), Vec::new());
        for (index, file) in request.files.iter().enumerate() {
            let size = files::open(file, request.format).await?.size();
            let name = disk_name(index)?;
            specs.push(DiskSpec { name: name.clone(), size, bus: DiskBus::Virtio, serial: None });
            disks.push(CapturedDisk {
                name,
                size,
                incremental: false,
                reason: Some("a file has no change map".to_owned()),
            });
        }
        let machine = MachineSpec {
            arch: request.arch,
            firmware: request.firmware.clone(),
            memory: request.memory,
            vcpus: request.vcpus,
            chipset: None,
            flavor: None,
            disks: specs,
            nics: Vec::new(),
            agent: false,
            tpm: false,
            tags: Tags::new(),
        };
        let handle = serde_json::to_value(request).map_err(|error| {
            Error::new(Kind::Invalid, format!("cannot import as server {}", request.server)).because(error)
        })?;
        Ok(Capture {
            id: CaptureId::new(run.id.as_str())?,
            server: request.server.clone(),
            taken_at: self.now(),
            consistency: Consistency::Crash,
            warnings: Vec::new(),
            machine,
            disks,
            cursor: None,
            since: None,
            handle,
        })
    }
}

/// `vda`, `vdb`, ...
fn disk_name(index: usize) -> Result<DiskName> {
    let letter = u8::try_from(index).ok().filter(|index| *index < 26).map(|index| char::from(b'a' + index));
    match letter {
        Some(letter) => DiskName::new(format!("vd{letter}")),
        None => Err(Error::new(Kind::Invalid, "a server has at most 26 imported disks")),
    }
}

/// What an interrupted import was asked.
pub(crate) async fn request_of(engine: &Engine, run: &RunRecord) -> Result<ImportRequest> {
    let unknown = || Error::new(Kind::Damaged, format!("cannot go on with import {}", run.id));
    let capture: Option<Capture> = engine.step_done(&run.id, CAPTURE).await?;
    let capture = capture.ok_or_else(unknown)?;
    serde_json::from_value(capture.handle).map_err(|error| unknown().because(error))
}

/// The server that a file's name suggests, for messages and defaults.
pub fn server_of_file(path: &std::path::Path) -> Option<ServerName> {
    ServerName::new(path.file_stem()?.to_str()?).ok()
}
