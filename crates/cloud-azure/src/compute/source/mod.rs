//! The role [`Source`] of a resource group: its machines, captures by incremental snapshots, changes by page ranges.

mod capture;
mod machine;
mod points;
mod switch;

use async_trait::async_trait;
use disk::DiskRead;
use futures::{StreamExt, TryStreamExt, stream};
use model::{DiskName, Error, Kind, Result, ServerName};
use serde_json::Value;

pub(super) use self::capture::{part_of, remove};

use self::capture::Handle;
use self::machine::Disk;
use super::AzureSite;
use super::arm::{Shown, What};
use super::http::Client;
use super::read::BlobDisk;
use cloud::{Capture, CaptureRequest, Outcome, Power, Server, Source};

/// Looks at machines that are under way at once.
const LOOKS: usize = 8;

/// A machine and what belongs to it.
struct Seen {
    pub machine: Shown,
    pub power: Power,
    pub disks: Vec<Disk>,
    /// All managed disks of the group.
    pub known: Vec<Shown>,
}

impl Seen {
    fn server(&self) -> Result<Server> {
        Ok(Server {
            name: ServerName::new(self.machine.name.as_str())?,
            power: self.power,
            machine: machine::spec(&self.machine, &self.disks, &self.known),
        })
    }
}

async fn power(client: &Client, machine: &str) -> Result<Power> {
    let view = client.instance_view(machine).await?;
    let statuses = view.get("statuses").and_then(Value::as_array).into_iter().flatten();
    let mut codes = statuses.filter_map(|status| status.get("code")?.as_str());
    // one that is starting or stopping writes to its disks
    let off = codes.any(|code| matches!(code, "PowerState/stopped" | "PowerState/deallocated"));
    Ok(if off { Power::Off } else { Power::On })
}

/// One server.
async fn look(client: &Client, server: &ServerName) -> Result<Seen> {
    let absent = || {
        Error::new(Kind::NotFound, format!("cannot find server {server}"))
            .because(format!("group {} has no such virtual machine", client.config.group))
    };
    // a name of ours may hold what no name of Azure does, and would be another path
    if server.as_str().contains(['/', ':', '@', '+']) {
        return Err(absent());
    }
    let machine = client.find(What::Machine, server.as_str()).await?.ok_or_else(absent)?;
    let known = client.list(What::Disk).await?;
    let disks = machine::disks(&machine, &known)?;
    let power = power(client, &machine.name).await?;
    Ok(Seen { machine, power, disks, known })
}

#[async_trait]
impl Source for AzureSite {
    async fn servers(&self) -> Result<Vec<Server>> {
        let client = self.client()?;
        let (machines, known) = (client.list(What::Machine).await?, client.list(What::Disk).await?);
        let servers = machines.into_iter().filter(|it| !machine::is_drill(it)).map(|machine| {
            let known = known.clone();
            async move {
                let disks = machine::disks(&machine, &known)?;
                let power = power(client, &machine.name).await?;
                Seen { machine, power, disks, known }.server()
            }
        });
        let mut all: Vec<Server> = stream::iter(servers).buffer_unordered(LOOKS).try_collect().await?;
        all.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(all)
    }

    async fn describe(&self, server: &ServerName) -> Result<Server> {
        look(self.client()?, server).await?.server()
    }

    async fn capture(&self, request: &CaptureRequest) -> Result<Capture> {
        capture::capture(self, request).await
    }

    async fn open(&self, capture: &Capture, disk: &DiskName, incremental: bool) -> Result<Box<dyn DiskRead>> {
        let (client, handle) = (self.client()?, Handle::of(capture)?);
        let operation = || format!("cannot open disk {disk} of capture {}", capture.id);
        let absent = |why: &str| Error::new(Kind::NotFound, operation()).because(why.to_owned());
        let captured = capture.disks.iter().find(|captured| captured.name == *disk);
        let captured = captured.ok_or_else(|| absent("it has no such disk"))?;
        let found = capture::pinned(client, &handle.stem).await?;
        let part = found.part(disk).filter(|_| !found.is_base()).ok_or_else(|| absent("it was released"))?;
        let since = match &capture.since {
            Some(since) if incremental && captured.incremental => {
                let base = capture::pinned(client, since.as_str()).await?;
                let base = base.part(disk).ok_or_else(|| absent("its base is gone"))?;
                Some(self.accesses.open(client, base.what, &base.name, false).await?)
            }
            _ => None,
        };
        let access = self.accesses.open(client, part.what, &part.name, false).await?;
        let name = format!("disk {disk} of capture {} at {}", capture.id, self.config.site);
        Ok(Box::new(BlobDisk { http: client.http.clone(), access, since, size: captured.size, name }))
    }

    async fn release(&self, capture: &Capture, outcome: Outcome) -> Result<()> {
        let client = self.client()?;
        match outcome {
            Outcome::Committed => capture::commit(client, capture).await,
            Outcome::Abandoned => capture::remove(client, &Handle::of(capture)?.stem).await,
        }
    }
}
