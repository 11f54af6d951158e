//! The servers of the project, put together from what Nova, Cinder, Neutron and Glance know of each.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join_all;
use model::{Error, Kind, Result, Role, ServerName};
use serde::Deserialize;

use super::machine::{Card, Disk, Properties, Sight};
use crate::openstack::api::Service;
use crate::openstack::api::cinder::{Cinder, Volume};
use crate::openstack::api::glance::{Glance, Image};
use crate::openstack::api::neutron::{FixedIp, Item, Neutron, Thing};
use crate::openstack::api::nova::{Nova, Server as Record};
use crate::openstack::http::Client;
use crate::openstack::marks;
use crate::{Power, Server};

/// Images that are looked at at once.
const AT_ONCE: usize = 8;

/// One server with all that belongs to it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) name: ServerName,
    pub(super) record: Record,
    pub(super) properties: Properties,
    image_size: Option<u64>,
    pub(super) volumes: Vec<Volume>,
    cards: Vec<Card>,
}

impl Seen {
    pub(super) fn with_sight<T>(&self, look: impl FnOnce(&Sight<'_>) -> T) -> T {
        let volumes: Vec<&Volume> = self.volumes.iter().collect();
        let (properties, image_size, cards) = (&self.properties, self.image_size, &self.cards);
        look(&Sight { server: &self.record, properties, image_size, volumes: &volumes, cards })
    }

    /// Takes over what Nova says in an image of the server: there it names the defaults that it chose as well.
    pub(super) fn learn(&mut self, image: &Image) {
        self.properties.extend(properties(image));
    }

    pub(super) fn disks(&self) -> Result<Vec<Disk>> {
        self.with_sight(|sight| sight.disks())
    }

    pub(super) fn server(&self) -> Result<Server> {
        let machine = self.with_sight(|sight| sight.machine(&sight.disks()?))?;
        // a paused guest is held in memory
        let power = if matches!(self.record.power, Some(1 | 3)) { Power::On } else { Power::Off };
        Ok(Server { name: self.name.clone(), power, machine })
    }
}

/// All servers. One that cannot be described is left out, and the log tells why.
pub(super) async fn servers(client: &Client) -> Result<Vec<Server>> {
    let records = named(Nova(client).servers().await?)?;
    let mut all = Vec::new();
    for seen in with_parts(client, records, None).await? {
        match seen.server() {
            Ok(server) => all.push(server),
            Err(error) => tracing::warn!(error = error.chain(), "a server is left out"),
        }
    }
    Ok(all)
}

/// One server.
pub(super) async fn look(client: &Client, name: &ServerName) -> Result<Seen> {
    let operation = || format!("cannot find server {name}");
    let records = Nova(client).servers().await?;
    let alike: Vec<String> =
        records.iter().filter(|record| record.name == name.as_str()).map(|record| record.id.clone()).collect();
    let found = named(records)?.into_iter().find(|(known, _)| known == name);
    let Some(found) = found else {
        return Err(match alike.len() {
            0 | 1 => Error::new(Kind::NotFound, operation()),
            many => Error::new(Kind::Invalid, operation())
                .because(format!("{many} servers have that name: {}", alike.join(", ")))
                .hint("`replicate servers` shows by which names they can be told apart"),
        });
    };
    let id = found.1.id.clone();
    let mut seen = with_parts(client, vec![found], Some(&id)).await?;
    seen.pop().ok_or_else(|| Error::new(Kind::NotFound, operation()))
}

/// Gives every server a name of its own. Nova's names need not be unique, nor fit ours: then the beginning of the id
/// is added. What drills launched is no server of anybody's.
fn named(records: Vec<Record>) -> Result<Vec<(ServerName, Record)>> {
    let drilled = |record: &Record| matches!(marks::of_metadata(&record.metadata), Some((Role::Scratch, _)));
    let records: Vec<Record> = records.into_iter().filter(|record| !drilled(record)).collect();
    let mut count: BTreeMap<&str, u32> = BTreeMap::new();
    for record in &records {
        *count.entry(&record.name).or_default() += 1;
    }
    let names = records.iter().map(|record| match ServerName::new(&record.name) {
        Ok(name) if count.get(record.name.as_str()) == Some(&1) => Ok(name),
        _ => ServerName::new(distinct(record)),
    });
    let names: Vec<ServerName> = names.collect::<Result<_>>()?;
    Ok(names.into_iter().zip(records).collect())
}

/// `web-1:6f2f3a5e`.
fn distinct(record: &Record) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = record.name.chars().map(fits).take(100).collect();
    let short: String = record.id.chars().take(8).collect();
    format!("{}:{short}", name.trim_matches(['.', '-'])).trim_start_matches(':').to_owned()
}

#[derive(Debug, Deserialize)]
struct Port {
    #[serde(default)]
    device_id: String,
    #[serde(default)]
    mac_address: String,
    network_id: String,
    #[serde(default)]
    fixed_ips: Vec<FixedIp>,
    #[serde(default)]
    security_groups: Vec<String>,
}

/// Adds volumes, network cards and image properties. With `only`, just those of that server are asked for.
async fn with_parts(client: &Client, records: Vec<(ServerName, Record)>, only: Option<&str>) -> Result<Vec<Seen>> {
    let wanted: BTreeSet<&str> =
        records.iter().flat_map(|(_, record)| record.volumes.iter().map(|volume| volume.id.as_str())).collect();
    let volumes = match (wanted.is_empty(), only) {
        (true, _) => Vec::new(),
        (false, None) => Cinder(client).volumes().await?,
        (false, Some(_)) => {
            let cinder = Cinder(client);
            try_join_all(wanted.into_iter().map(|id| cinder.volume(id))).await?
        }
    };
    let images = images(client, &records).await?;
    let mut cards = cards(client, only).await?;
    let seen = records.into_iter().map(|(name, record)| {
        let image = record.image_id().and_then(|id| images.get(id));
        let attached = |volume: &&Volume| record.volumes.iter().any(|attached| attached.id == volume.id);
        let volumes: Vec<Volume> = volumes.iter().filter(attached).cloned().collect();
        let properties = match image {
            Some(image) => properties(image),
            None => boot_properties(&volumes),
        };
        let image_size = image.and_then(|image| image.virtual_size);
        let cards = cards.remove(&record.id).unwrap_or_default();
        Seen { name, record, properties, image_size, volumes, cards }
    });
    Ok(seen.collect())
}

fn properties(image: &Image) -> Properties {
    let texts = image.properties.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    texts.collect()
}

/// What Cinder kept of the image that the boot volume was made from.
fn boot_properties(volumes: &[Volume]) -> Properties {
    let boot = volumes.iter().find(|volume| !volume.volume_image_metadata.is_empty());
    boot.map(|volume| volume.volume_image_metadata.clone()).unwrap_or_default()
}

/// The images that servers were made from. One that was deleted since is missing: its servers have the usual defaults.
async fn images(client: &Client, records: &[(ServerName, Record)]) -> Result<BTreeMap<String, Image>> {
    let ids: BTreeSet<&str> = records.iter().filter_map(|(_, record)| record.image_id()).collect();
    let ids: Vec<&str> = ids.into_iter().collect();
    let mut found = BTreeMap::new();
    for some in ids.chunks(AT_ONCE) {
        let looks = try_join_all(some.iter().map(|id| image(client, id))).await?;
        found.extend(looks.into_iter().flatten().map(|image| (image.id.clone(), image)));
    }
    Ok(found)
}

async fn image(client: &Client, id: &str) -> Result<Option<Image>> {
    match Glance(client).show(id).await {
        Ok(image) => Ok(Some(image)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The network cards by server.
async fn cards(client: &Client, only: Option<&str>) -> Result<BTreeMap<String, Vec<Card>>> {
    let mut cards: BTreeMap<String, Vec<Card>> = BTreeMap::new();
    if !client.has(Service::Network).await? {
        return Ok(cards);
    }
    let neutron = Neutron(client);
    let mut query = vec![("project_id", client.project().await?)];
    query.extend(only.map(|id| ("device_id", id.to_owned())));
    let ports: Vec<Port> = neutron.list_as(Thing::Port, &query).await?;
    let names =
        |items: Vec<Item>| -> BTreeMap<String, String> { items.into_iter().map(|item| (item.id, item.name)).collect() };
    let networks = names(neutron.list(Thing::Network, &[]).await?);
    let groups = names(neutron.list(Thing::SecurityGroup, &[]).await?);
    let name = |known: &BTreeMap<String, String>, id: &String| match known.get(id) {
        Some(name) if !name.is_empty() => name.clone(),
        _ => id.clone(),
    };
    for port in ports.into_iter().filter(|port| !port.device_id.is_empty()) {
        let card = Card {
            mac: port.mac_address,
            network: Some(name(&networks, &port.network_id)),
            addresses: port.fixed_ips.into_iter().map(|ip| ip.ip_address).collect(),
            security_groups: port.security_groups.iter().map(|id| name(&groups, id)).collect(),
        };
        cards.entry(port.device_id).or_default().push(card);
    }
    Ok(cards)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::machine::tests::server;
    use super::*;

    fn names(records: Vec<Record>) -> Vec<String> {
        named(records).unwrap().into_iter().map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn names_are_told_apart() {
        let record = |name: &str, id: &str| server(json!({"name": name, "id": id}));
        let all = vec![
            record("web-1", "aaaaaaaa-1"),
            record("db", "bbbbbbbb-1"),
            record("db", "cccccccc-1"),
            record("my server", "dddddddd-1"),
            record("服务器", "eeeeeeee-1"),
        ];
        assert_eq!(names(all), ["web-1", "db:bbbbbbbb", "db:cccccccc", "my-server:dddddddd", "eeeeeeee"]);
    }

    #[test]
    fn a_drill_is_no_server() {
        let tags = json!({"replicate:owner": "me", "replicate:role": "scratch"});
        let restored = json!({"replicate:owner": "me", "replicate:role": "replica"});
        let all = vec![server(json!({"metadata": tags})), server(json!({"name": "back", "metadata": restored}))];
        assert_eq!(names(all), ["back"]);
    }
}
