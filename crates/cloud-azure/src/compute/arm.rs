//! Disks, snapshots and machines at the Resource Manager: paths, create, look, tag, delete, list.

use model::{Error, Kind, Result, Tags, crash};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::http::{Answer, Client};

/// The most pages of one listing: one that never ends is a mistake of somebody's.
const PAGES: usize = 10_000;

/// The version of the provider's interface that has immutability policies of snapshots.
const KEEPING: &str = "2026-03-02";

/// What is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum What {
    Disk,
    Snapshot,
    Machine,
    /// Of restore points of a machine. What is in it is named by its path below the collection.
    Collection,
    Point,
    PointDisk,
    /// Of images. What is in it is named by its path below the galleries.
    Gallery,
    Definition,
    Version,
}

impl What {
    fn path(self) -> &'static str {
        match self {
            What::Disk => "disks",
            What::Snapshot => "snapshots",
            What::Machine => "virtualMachines",
            What::Collection | What::Point | What::PointDisk => "restorePointCollections",
            What::Gallery | What::Definition | What::Version => "galleries",
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            What::Disk => "disk",
            What::Snapshot => "snapshot",
            What::Machine => "virtual machine",
            What::Collection => "restore point collection",
            What::Point => "restore point",
            What::PointDisk => "disk restore point",
            What::Gallery => "gallery",
            What::Definition => "image definition",
            What::Version => "image version",
        }
    }

    /// The version of the provider's interface that is spoken.
    fn version(self) -> &'static str {
        match self {
            What::Disk | What::Snapshot | What::PointDisk => "2024-03-02",
            What::Machine | What::Collection | What::Point => "2024-11-01",
            // the first that blocks deletion, and before those in which definitions are of Trusted Launch unless they say otherwise
            What::Gallery | What::Definition | What::Version => "2024-03-03",
        }
    }
}

/// Something as it is shown.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown {
    pub id: String,
    pub name: String,
    #[serde(default)]
    pub location: String,
    #[serde(default)]
    pub tags: Tags,
    /// The machine that a disk is attached to.
    #[serde(default)]
    pub managed_by: Option<String>,
    #[serde(default)]
    pub properties: Value,
}

impl Shown {
    /// A text among the properties, by its path: `/creationData/createOption`.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.properties.pointer(path)?.as_str()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.properties.get("diskSizeBytes").and_then(Value::as_u64).unwrap_or_default()
    }
}

impl Client {
    /// The id of something in the site's group.
    pub(super) fn id(&self, what: What, name: &str) -> String {
        let (subscription, group) = (&self.config.subscription, &self.config.group);
        let path = what.path();
        format!("/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/{path}/{name}")
    }

    /// None: there is no such thing.
    pub(super) async fn find(&self, what: What, name: &str) -> Result<Option<Shown>> {
        self.find_as(what, name, what.version()).await
    }

    /// A disk encryption set, which may be of another group.
    pub(super) async fn find_set(&self, id: &str) -> Result<Option<Shown>> {
        self.show(format!("cannot look at disk encryption set {id}"), self.url(id, What::Disk.version())).await
    }

    /// A snapshot with its immutability policy.
    pub(super) async fn find_kept(&self, name: &str) -> Result<Option<Shown>> {
        self.find_as(What::Snapshot, name, KEEPING).await
    }

    /// With more of it than is shown else.
    pub(super) async fn find_expanded(&self, what: What, name: &str, more: &str) -> Result<Option<Shown>> {
        self.find_as(what, name, &format!("{}&$expand={more}", what.version())).await
    }

    async fn find_as(&self, what: What, name: &str, version: &str) -> Result<Option<Shown>> {
        self.show(format!("cannot look at {} {name}", what.word()), self.url(&self.id(what, name), version)).await
    }

    async fn show(&self, operation: String, url: String) -> Result<Option<Shown>> {
        match self.send(&operation, Method::GET, &url, None, false).await {
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(answer) => shown(&operation, answer.body).map(Some),
        }
    }

    /// Makes something and waits until it is there; `only_new`: whatever has the name already is not touched.
    pub(super) async fn create(&self, what: What, name: &str, body: &Value, only_new: bool) -> Result<()> {
        let operation = format!("cannot create {} {name}", what.word());
        let answer = self.put(&operation, what, name, body, only_new).await?;
        self.settle(&operation, answer).await?;
        crash::point(&format!("azure.{}-create.after", what.path()));
        Ok(())
    }

    /// Begins to make something, and waits for nothing.
    pub(super) async fn begin(&self, what: What, name: &str, body: &Value) -> Result<()> {
        let operation = format!("cannot create {} {name}", what.word());
        self.put(&operation, what, name, body, false).await.map(drop)
    }

    async fn put(&self, operation: &str, what: What, name: &str, body: &Value, only_new: bool) -> Result<Answer> {
        let url = self.url(&self.id(what, name), what.version());
        crash::point(&format!("azure.{}-create.before", what.path()));
        let answer = self.send(operation, Method::PUT, &url, Some(body), only_new).await?;
        crash::point(&format!("azure.{}-create.begun", what.path()));
        Ok(answer)
    }

    /// Sets all tags.
    pub(super) async fn tag(&self, what: What, name: &str, tags: &Tags) -> Result<()> {
        self.patch("tag", what, name, &json!({ "tags": tags })).await
    }

    /// Changes what the body names, in one call.
    pub(super) async fn update(&self, what: What, name: &str, body: &Value) -> Result<()> {
        self.patch("update", what, name, body).await
    }

    /// Begins to change it, and waits for nothing.
    pub(super) async fn begin_update(&self, what: What, name: &str, body: &Value) -> Result<()> {
        let operation = format!("cannot update {} {name}", what.word());
        let url = self.url(&self.id(what, name), what.version());
        crash::point(&format!("azure.{}-update.before", what.path()));
        self.send(&operation, Method::PATCH, &url, Some(body), false).await?;
        crash::point(&format!("azure.{}-update.begun", what.path()));
        Ok(())
    }

    async fn patch(&self, verb: &str, what: What, name: &str, body: &Value) -> Result<()> {
        let operation = format!("cannot {verb} {} {name}", what.word());
        let url = self.url(&self.id(what, name), what.version());
        crash::point(&format!("azure.{}-{verb}.before", what.path()));
        let answer = self.send(&operation, Method::PATCH, &url, Some(body), false).await?;
        self.settle(&operation, answer).await?;
        crash::point(&format!("azure.{}-{verb}.after", what.path()));
        Ok(())
    }

    /// Deletes something. Absent is success. Whatever access is open to the bytes is ended first: nothing that is to go
    /// is kept by a SAS that a dead process has left.
    pub(super) async fn delete(&self, what: What, name: &str) -> Result<()> {
        let Some(found) = self.find(what, name).await? else { return Ok(()) };
        let state = found.text("/diskState");
        if matches!(state, Some("ActiveSAS" | "ActiveSASFrozen" | "ActiveUpload")) {
            match self.act(what, name, "endGetAccess", &Value::Null).await {
                // an upload that was broken off is no VHD; its access has ended all the same
                Err(error) if matches!(error.kind(), Kind::Permanent | Kind::NotFound) => {}
                other => drop(other?),
            }
        }
        let operation = format!("cannot delete {} {name}", what.word());
        let url = self.url(&self.id(what, name), what.version());
        crash::point(&format!("azure.{}-delete.before", what.path()));
        match self.send(&operation, Method::DELETE, &url, None, false).await {
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            answer => drop(self.settle(&operation, answer?).await?),
        }
        crash::point(&format!("azure.{}-delete.after", what.path()));
        Ok(())
    }

    /// An action, and its result.
    pub(super) async fn act(&self, what: What, name: &str, action: &str, body: &Value) -> Result<Value> {
        let operation = format!("cannot ask {action} of {} {name}", what.word());
        let version = if action.starts_with("updateImmutability") { KEEPING } else { what.version() };
        let url = self.url(&format!("{}/{action}", self.id(what, name)), version);
        crash::point(&format!("azure.{action}.before"));
        let body = (!body.is_null()).then_some(body);
        let answer = self.send(&operation, Method::POST, &url, body, false).await?;
        let done = self.settle(&operation, answer).await?;
        crash::point(&format!("azure.{action}.after"));
        Ok(done)
    }

    /// What the machine is doing.
    pub(super) async fn instance_view(&self, name: &str) -> Result<Value> {
        let operation = format!("cannot look at virtual machine {name}");
        let url = self.url(&format!("{}/instanceView", self.id(What::Machine, name)), What::Machine.version());
        Ok(self.send(&operation, Method::GET, &url, None, false).await?.body)
    }

    /// Everything of a kind in the site's group and region. Complete, or an error.
    pub(super) async fn list(&self, what: What) -> Result<Vec<Shown>> {
        self.list_below(what, "").await
    }

    /// The same of what is in something: `DEFINITION/versions`.
    pub(super) async fn list_below(&self, what: What, above: &str) -> Result<Vec<Shown>> {
        let operation = format!("cannot list every {} of group {}", what.word(), self.config.group);
        let all = self.id(what, above);
        let mut next = Some(self.url(all.trim_end_matches('/'), what.version()));
        let mut found = Vec::new();
        for _ in 0..PAGES {
            let Some(url) = next.take() else { break };
            let mut page = self.send(&operation, Method::GET, &url, None, false).await?.body;
            let items = page.get_mut("value").map(Value::take).unwrap_or_default();
            let items: Vec<Shown> = serde_json::from_value(items).map_err(|error| odd(&operation, error))?;
            // galleries and definitions of any region have versions of this one
            let anywhere = matches!(what, What::Gallery | What::Definition);
            found.extend(items.into_iter().filter(|it| anywhere || self.is_here(it)));
            next = page.get("nextLink").and_then(Value::as_str).filter(|link| !link.is_empty()).map(str::to_owned);
        }
        match next {
            None => Ok(found),
            Some(_) => Err(Error::new(Kind::Permanent, operation).because(format!("it has more than {PAGES} pages"))),
        }
    }

    fn is_here(&self, it: &Shown) -> bool {
        it.location.is_empty() || it.location.eq_ignore_ascii_case(&self.config.location)
    }
}

fn shown(operation: &str, body: Value) -> Result<Shown> {
    serde_json::from_value(body).map_err(|error| odd(operation, error))
}

fn odd(operation: &str, error: serde_json::Error) -> Error {
    Error::new(Kind::Permanent, operation).because(format!("the answer is not understood: {error}"))
}
