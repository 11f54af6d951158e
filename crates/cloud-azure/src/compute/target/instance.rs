//! Instances: machines of managed disks that are copied from an image's snapshots.
//!
//! An instance's id is the machine's name, a slash, and the name under which its disks are found, so that it can be
//! taken away whole even when the machine is gone already. Its card is made and deleted with it by Azure.

use model::{Error, ImageId, InstanceId, Kind, RestorePoint, Result, Role, Tags, Token};
use serde_json::{Value, json};

use super::super::arm::{Shown, What};
use super::super::http::Client;
use super::super::restore::LaunchSpec;
use super::super::{AzureSite, blob, encryption, error::transport, marks};
use super::image::{self, generation};
use super::trusted;
use cloud::{Instance, LaunchOptions, Network, ProbeState};

/// The longest name of a machine that runs Linux; Windows takes 15 for its own name, which a copied disk has already.
const NAME: usize = 64;
/// The most that is read of a console.
const CONSOLE: usize = 4 << 20;
/// The version of the network's interface for the card that comes with a machine.
const NETWORK: &str = "2022-11-01";

/// The id of an instance, by its machine and its tags. None: they are not of a token.
pub(in crate::compute) fn id_of(machine: &str, tags: &Tags) -> Option<InstanceId> {
    InstanceId::new(format!("{machine}/{}", tags.get(marks::OF)?)).ok()
}

fn parts(instance: &InstanceId) -> (&str, Option<&str>) {
    match instance.as_str().split_once('/') {
        Some((machine, stem)) => (machine, Some(stem)),
        None => (instance.as_str(), None),
    }
}

/// A name that Azure takes.
fn machine_name(options: &LaunchOptions) -> String {
    let fine = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = options.name.as_str().chars().map(fine).take(NAME).collect();
    name.trim_end_matches(['-', '.', '_']).to_owned()
}

/// Starts an instance of an image, or finds the one that the token has started.
pub(super) async fn launch(
    site: &AzureSite,
    image: &ImageId,
    options: &LaunchOptions,
    token: &Token,
) -> Result<Instance> {
    let (client, operation) = (site.client()?, format!("cannot launch image {image}"));
    let wrong = |why: &str| Error::new(Kind::Invalid, operation.clone()).because(why.to_owned());
    if !options.ports.is_empty() {
        return Err(
            wrong("ports of a machine at Azure are not reached from here").hint("prove it by what its console says")
        );
    }
    let (name, stem) = (machine_name(options), format!("{}-v", marks::name(token)));
    let role = if options.ephemeral { Role::Scratch } else { Role::Replica };
    let tags = marks::tags(token, role, &[(marks::PART, "instance"), (marks::OF, &stem)]);
    let taken = || {
        Error::new(Kind::Exists, operation.clone())
            .because(format!("a virtual machine {name} exists in group {}", site.config.group))
            .hint("choose another name")
    };
    let known = client.find(What::Machine, &name).await?;
    if known.as_ref().is_some_and(|known| known.tags.get(marks::OF) != Some(&stem)) {
        return Err(taken());
    }
    let (_, point) = image::show(client, image).await?;
    let profile = trusted::profile(&point);
    let first = if profile.is_some() { trusted::unsecured(&tags) } else { tags.clone() };
    let launched = Launched { site, image, point: &point, stem: &stem, tags: &tags, first: &first };
    if known.is_none() {
        let spec = site.config.restore.of(&point.server);
        let form = launched.form(&spec, options, &name).map_err(|error| error.within(operation.clone()))?;
        let ids = launched.disks(&spec).await.map_err(|error| error.within(operation.clone()))?;
        match client.create(What::Machine, &name, &with_disks(form, &ids), true).await {
            Err(error) if error.kind() == Kind::Exists => {
                let found = client.find(What::Machine, &name).await?;
                // ours, by a call whose answer was lost; or somebody was faster
                if found.is_none_or(|found| found.tags.get(marks::OF) != Some(&stem)) {
                    return Err(taken());
                }
            }
            made => made.map_err(|error| error.within(operation.clone()))?,
        }
    }
    if let Some(profile) = &profile {
        trusted::secure(client, &name, profile, &tags).await.map_err(|error| error.within(operation.clone()))?;
    }
    let id = id_of(&name, &tags).ok_or_else(|| wrong("its name is none"))?;
    Ok(Instance { id, ports: Vec::new() })
}

/// What is launched.
struct Launched<'a> {
    site: &'a AzureSite,
    image: &'a ImageId,
    point: &'a RestorePoint,
    stem: &'a str,
    /// Of the machine, ...
    tags: &'a Tags,
    /// ... and when it is made.
    first: &'a Tags,
}

impl Launched<'_> {
    fn disk_name(&self, place: usize) -> String {
        format!("{}-{place}", self.stem)
    }

    /// The tags of a disk, its machine's role among them from the beginning: a mark that came after the machine would be
    /// one that a crash leaves out, and a server's disk would be swept once its owner has detached it. What a restore has
    /// made before it died is known by its run.
    fn disk_tags(&self, place: usize) -> Tags {
        let mut tags = self.tags.clone();
        tags.insert(marks::PART.to_owned(), "volume".to_owned());
        tags.insert(marks::DISK.to_owned(), self.point.disks[place].name.to_string());
        tags
    }

    /// Makes the disks; their ids in boot order.
    async fn disks(&self, spec: &LaunchSpec) -> Result<Vec<String>> {
        let client = self.site.client()?;
        let mut ids = Vec::new();
        for place in 0..self.point.disks.len() {
            let name = self.disk_name(place);
            let source = image::snapshot(self.image.as_str(), place);
            let encryption = self.encryption(&source).await?;
            let creation = json!({ "createOption": "Copy", "sourceResourceId": client.id(What::Snapshot, &source) });
            let mut properties = json!({ "encryption": encryption, "creationData": creation });
            if place == 0 {
                properties["osType"] = json!(system(spec));
                properties["hyperVGeneration"] = json!(generation(&self.point.machine.firmware));
            }
            let body = json!({
                "location": self.site.config.location, "tags": self.disk_tags(place),
                "sku": { "name": self.site.config.storage }, "properties": properties,
            });
            client.create(What::Disk, &name, &body, false).await?;
            ids.push(client.id(What::Disk, &name));
        }
        Ok(ids)
    }

    /// The site's set, else that of the snapshot: a restore weakens nothing.
    async fn encryption(&self, snapshot: &str) -> Result<Value> {
        if self.site.config.encryption_set.is_some() {
            return self.site.encryption().await;
        }
        let found = self.site.client()?.find(What::Snapshot, snapshot).await?;
        let absent = || {
            Error::new(Kind::NotFound, format!("cannot launch image {}", self.image))
                .because(format!("snapshot {snapshot} does not exist"))
        };
        found.as_ref().map(encryption::of).ok_or_else(absent)
    }

    /// What is asked for, but for the disks.
    fn form(&self, spec: &LaunchSpec, options: &LaunchOptions, name: &str) -> Result<Value> {
        let missing = |key: &str| {
            Error::new(Kind::Invalid, format!("cannot launch server {}", options.name))
                .because(format!("the site does not say which `{key}` it gets"))
                .hint(format!("set `{key}` in the site's `restore`"))
        };
        let size = spec.size.as_ref().ok_or_else(|| missing("size"))?;
        let subnet = match options.network {
            Network::Site => spec.subnet.as_ref().ok_or_else(|| missing("subnet"))?,
            Network::Isolated => spec.drill_subnet.as_ref().ok_or_else(|| missing("drill-subnet"))?,
        };
        let address = json!({ "name": "main", "properties": { "primary": true, "subnet": { "id": subnet } } });
        let mut card = json!({ "primary": true, "deleteOption": "Delete", "ipConfigurations": [address] });
        if let Some(group) = &spec.security_group {
            card["networkSecurityGroup"] = json!({ "id": group });
        }
        Ok(json!({
            "location": self.site.config.location, "tags": self.first,
            "properties": {
                "hardwareProfile": { "vmSize": size },
                "storageProfile": { "osDisk": { "osType": system(spec) } },
                "networkProfile": {
                    "networkApiVersion": NETWORK,
                    "networkInterfaceConfigurations": [{ "name": format!("{name}-card"), "properties": card }],
                },
                "diagnosticsProfile": { "bootDiagnostics": { "enabled": true } },
            },
        }))
    }
}

pub(super) fn system(spec: &LaunchSpec) -> &'static str {
    if spec.windows.unwrap_or(false) { "Windows" } else { "Linux" }
}

fn with_disks(mut form: Value, ids: &[String]) -> Value {
    let storage = &mut form["properties"]["storageProfile"];
    let data = ids
        .iter()
        .enumerate()
        .skip(1)
        .map(|(place, id)| json!({ "lun": place - 1, "createOption": "Attach", "managedDisk": { "id": id } }));
    storage["dataDisks"] = data.collect();
    storage["osDisk"]["createOption"] = json!("Attach");
    storage["osDisk"]["managedDisk"] = json!({ "id": ids.first() });
    form
}

/// Looks at an instance.
pub(super) async fn probe(client: &Client, instance: &InstanceId) -> Result<ProbeState> {
    let view = client.instance_view(parts(instance).0).await?;
    let statuses = view.get("statuses").and_then(Value::as_array).into_iter().flatten();
    let running = statuses.filter_map(|status| status.get("code")?.as_str()).any(|code| code == "PowerState/running");
    let panicked = console(client, instance).await?.contains("Kernel panic - not syncing");
    Ok(ProbeState { running, agent: false, panicked })
}

/// What the serial console has said so far, of a secured machine since it is one.
pub(super) async fn console(client: &Client, instance: &InstanceId) -> Result<String> {
    let name = parts(instance).0;
    let machine = client.find(What::Machine, name).await?;
    let said = machine.as_ref().and_then(|machine| machine.tags.get(marks::SAID));
    Ok(trusted::since(said, log(client, name).await?))
}

/// What boot diagnostics have kept of the serial console.
pub(super) async fn log(client: &Client, name: &str) -> Result<String> {
    let operation = format!("cannot read the console of virtual machine {name}");
    let answer = client.act(What::Machine, name, "retrieveBootDiagnosticsData", &Value::Null).await?;
    let Some(url) = answer.get("serialConsoleLogBlobUri").and_then(Value::as_str) else {
        // nothing was said yet
        return Ok(String::new());
    };
    let answer = client
        .http
        .get(url)
        .header("x-ms-version", blob::VERSION)
        .send()
        .await
        .map_err(|error| transport(&operation, error))?;
    match answer.status().as_u16() {
        // the blob comes with the first output
        404 => Ok(String::new()),
        200 => Ok(String::from_utf8_lossy(&blob::body(&operation, answer, CONSOLE).await?).into_owned()),
        status => Err(Error::new(Kind::Transient, operation).because(format!("the log answered {status}"))),
    }
}

/// Deletes the machine, and then its disks, which cannot go before it.
pub(in crate::compute) async fn destroy(client: &Client, instance: &InstanceId) -> Result<()> {
    let (name, stem) = parts(instance);
    let found = client.find(What::Machine, name).await?;
    // the name may be another machine's by now
    let ours = |found: &Shown| match (stem, found.tags.get(marks::OF)) {
        (Some(stem), Some(known)) => known == stem,
        (None, Some(_)) => true,
        _ => false,
    };
    let machine = found.filter(ours);
    let stem = stem.map(str::to_owned).or_else(|| machine.as_ref()?.tags.get(marks::OF).cloned());
    if machine.is_some() {
        client.delete(What::Machine, name).await?;
    }
    let Some(stem) = stem else { return Ok(()) };
    for disk in client.list(What::Disk).await? {
        if disk.tags.get(marks::OF) == Some(&stem) && marks::ours(&disk.tags).is_some() {
            client.delete(What::Disk, &disk.name).await?;
        }
    }
    Ok(())
}
