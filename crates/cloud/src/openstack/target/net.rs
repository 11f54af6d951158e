//! What a launched server is connected to: ports with an address or a hardware address of our choice, and for drills a
//! network of its own that no router knows.

use model::{Error, Kind, MachineSpec, Result, Role, Token, crash};
use serde_json::{Value, json};

use super::super::api::neutron::{Item, Neutron, Thing};
use super::super::http::Client;
use super::super::marks;
use super::super::restore::{LaunchSpec, MacChoice, NetworkSpec};

/// Addresses of a drill's network. Nothing outside of it ever sees them.
const DRILL: &str = "192.168.222.0/24";

/// What Nova is told of networks.
pub(super) struct Networks(pub Vec<Value>);

/// Marks what is made here, and finds it again.
struct Maker<'a> {
    client: &'a Client,
    name: String,
    description: String,
    made: Vec<(Thing, Item)>,
}

impl<'a> Maker<'a> {
    async fn new(client: &'a Client, token: &Token, role: Role) -> Result<Self> {
        let (name, description) = (token.name(), marks::description(token, role));
        let mut made = Vec::new();
        for thing in [Thing::Network, Thing::Subnet, Thing::Port] {
            made.extend(ours(client, thing, &name).await?.into_iter().map(|item| (thing, item)));
        }
        Ok(Self { client, name, description, made })
    }

    /// Makes a thing, unless an earlier call with the token has made it. `nth` of its kind.
    async fn make(&self, thing: Thing, nth: usize, mut value: Value) -> Result<Item> {
        let mut known: Vec<&Item> = self.made.iter().filter(|(kind, _)| *kind == thing).map(|(_, item)| item).collect();
        known.sort_by(|one, two| one.description.cmp(&two.description));
        // the number stands behind the marks, and so decides the order
        let description = format!("{} nth={nth}", self.description);
        if let Some(item) = known.into_iter().find(|item| item.description == description) {
            return Ok(item.clone());
        }
        value["name"] = json!(self.name);
        value["description"] = json!(description);
        crash::point(&format!("openstack.{}-create.before", thing.word()));
        let made = Neutron(self.client).create(thing, &self.name, &value).await?;
        crash::point(&format!("openstack.{}-create.after", thing.word()));
        Ok(made)
    }
}

/// Things at Neutron that we have made under a name.
async fn ours(client: &Client, thing: Thing, name: &str) -> Result<Vec<Item>> {
    let query = [("project_id", client.project().await?), ("name", name.to_owned())];
    let mut found = Neutron(client).list(thing, &query).await?;
    found.retain(|item| item.name == name && marks::of_description(&item.description).is_some());
    Ok(found)
}

/// A network of its own for a drill.
pub(super) async fn isolated(client: &Client, machine: &MachineSpec, token: &Token) -> Result<Networks> {
    let maker = Maker::new(client, token, Role::Scratch).await?;
    let network = maker.make(Thing::Network, 0, json!({ "admin_state_up": true })).await?;
    // no gateway: there is no way out, not even one that leads nowhere
    let subnet = json!({ "network_id": network.id, "ip_version": 4, "cidr": DRILL, "gateway_ip": null });
    maker.make(Thing::Subnet, 0, subnet).await?;
    let mut ports = Vec::new();
    for nth in 0..machine.nics.len().max(1) {
        let mut port = json!({ "network_id": network.id });
        // the guest knows its cards by their addresses
        if let Some(mac) = machine.nics.get(nth).and_then(|nic| nic.mac.as_ref()) {
            port["mac_address"] = json!(mac);
        }
        ports.push(json!({ "port": maker.make(Thing::Port, nth, port).await?.id }));
    }
    Ok(Networks(ports))
}

/// The site's own networks.
pub(super) async fn of_site(
    client: &Client,
    spec: &LaunchSpec,
    machine: &MachineSpec,
    token: &Token,
    role: Role,
) -> Result<Networks> {
    let known = Neutron(client).list(Thing::Network, &[]).await?;
    let wanted = match &spec.networks {
        Some(networks) => networks.clone(),
        None => vec![the_only(client).await?],
    };
    let maker = Maker::new(client, token, role).await?;
    let mut networks = Vec::new();
    for (nth, wanted) in wanted.iter().enumerate() {
        let network = pick(&known, &wanted.network, "network")?;
        let kept = machine.nics.get(nth).and_then(|nic| nic.mac.as_ref());
        let mac = match &wanted.mac {
            MacChoice::New => None,
            MacChoice::Keep => kept,
            MacChoice::Given(mac) => Some(mac),
        };
        if wanted.address.is_none() && mac.is_none() {
            // Nova makes the port, and takes it away with the server
            networks.push(json!({ "uuid": network.id }));
            continue;
        }
        let mut port = json!({ "network_id": network.id });
        if let Some(address) = &wanted.address {
            port["fixed_ips"] = json!([{ "ip_address": address }]);
        }
        if let Some(mac) = mac {
            port["mac_address"] = json!(mac);
        }
        if let Some(groups) = &spec.security_groups {
            port["security_groups"] = json!(security_groups(client, groups).await?);
        }
        let made = maker.make(Thing::Port, nth, port).await.map_err(|error| match error.kind() {
            Kind::Exists => error.hint("is the server that it belonged to still there?"),
            _ => error,
        })?;
        networks.push(json!({ "port": made.id }));
    }
    Ok(Networks(networks))
}

/// The one network of the project.
async fn the_only(client: &Client) -> Result<NetworkSpec> {
    let query = [("project_id", client.project().await?)];
    let mut own = Neutron(client).list(Thing::Network, &query).await?;
    own.retain(|network| marks::of_description(&network.description).is_none());
    match own.as_slice() {
        [one] => Ok(NetworkSpec { network: one.id.clone(), address: None, mac: MacChoice::New }),
        other => {
            let names: Vec<&str> = other.iter().map(|network| network.name.as_str()).collect();
            let why = match names.as_slice() {
                [] => "the project has no network".to_owned(),
                names => format!("the project has several: {}", names.join(", ")),
            };
            Err(Error::new(Kind::Invalid, "cannot choose a network")
                .because(why)
                .hint("name one in `networks` of the site's `restore`"))
        }
    }
}

async fn security_groups(client: &Client, wanted: &[String]) -> Result<Vec<String>> {
    let query = [("project_id", client.project().await?)];
    let known = Neutron(client).list(Thing::SecurityGroup, &query).await?;
    wanted.iter().map(|name| Ok(pick(&known, name, "security group")?.id.clone())).collect()
}

/// The thing of an id or a name, which must be the only one.
fn pick<'a>(known: &'a [Item], wanted: &str, what: &str) -> Result<&'a Item> {
    let error = |why: &str| Error::new(Kind::Invalid, format!("cannot use {what} {wanted}")).because(why.to_owned());
    if let Some(item) = known.iter().find(|item| item.id == wanted) {
        return Ok(item);
    }
    let mut named = known.iter().filter(|item| item.name == wanted);
    match (named.next(), named.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(error("there is none of that id or name")),
        (Some(_), Some(_)) => Err(error("there are several of that name").hint("write its id")),
    }
}

/// Deletes what was made for a server under a name; a network goes after what is in it.
pub(super) async fn remove(client: &Client, name: &str) -> Result<()> {
    for thing in [Thing::Port, Thing::Subnet, Thing::Network] {
        for item in ours(client, thing, name).await? {
            crash::point(&format!("openstack.{}-delete.before", thing.word()));
            Neutron(client).delete(thing, &item.id).await?;
            crash::point(&format!("openstack.{}-delete.after", thing.word()));
        }
    }
    Ok(())
}
