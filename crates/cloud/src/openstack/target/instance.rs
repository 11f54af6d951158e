//! Instances: servers that were launched from an image, with what they are connected to.
//!
//! An instance's id is the server's, a slash, and the name under which everything else of it is found, so that it can
//! be taken away whole even when the server is gone already.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::{Error, ImageId, InstanceId, Kind, RestorePoint, Result, Role, Tags, Token, crash, tag};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::super::api::glance::Image;
use super::super::api::nova::{Flavor, Nova, Server};
use super::super::http::Client;
use super::super::restore::LaunchSpec;
use super::super::{OpenStackSite, api::Service, marks};
use super::image;
use super::net::{self, Networks};
use super::volumes::{self, Wanted};
use crate::{Instance, LaunchOptions, Network, ProbeState};

/// The longest that a server may take to come up: its disk may be copied first.
const UP: Duration = Duration::from_secs(1800);
/// The longest that a server may take to go.
const GONE: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_secs(2);
/// Servers that are tried for one launch: a cloud that has a bad moment gives one up that it would have made a minute
/// later, and never tries it again.
const ATTEMPTS: u32 = 3;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The most that Nova takes as user data, before base64.
const USER_DATA: u64 = 49_151;

/// The id of an instance, by its server and its tags.
pub(in crate::openstack) fn id_of(server: &str, tags: &Tags) -> Result<InstanceId> {
    let part = |key: &str| tags.get(key).cloned().unwrap_or_default();
    InstanceId::new(format!("{server}/replicate-{}-{}", part(tag::RUN), part(tag::STEP)))
}

/// Server and name.
fn parts(instance: &InstanceId) -> (&str, Option<&str>) {
    match instance.as_str().split_once('/') {
        Some((server, name)) => (server, Some(name)),
        None => (instance.as_str(), None),
    }
}

/// Starts an instance of an image, or finds the one that the token has started. A server that the cloud gave up before
/// it ever ran is replaced: nobody has used it, and nothing brings it up any more.
pub(super) async fn launch(
    site: &OpenStackSite,
    image: &ImageId,
    options: &LaunchOptions,
    token: &Token,
) -> Result<Instance> {
    let (client, operation) = (&site.client, format!("cannot launch image {image}"));
    if options.network == Network::Isolated && !options.ports.is_empty() {
        return Err(Error::new(Kind::Invalid, operation)
            .because("a port of an isolated server cannot be reached from here")
            .hint("prove it by what its console says"));
    }
    let role = if options.ephemeral { Role::Scratch } else { Role::Replica };
    let tags = token.tags(role);
    let mut attempts = 0;
    loop {
        let known = find(client, &tags).await?.map(|server| server.id);
        let is_new = known.is_none();
        let id = match known {
            Some(id) => id,
            None => start(site, image, options, token, role).await.map_err(|error| error.within(operation.clone()))?,
        };
        attempts += u32::from(is_new);
        let server = settled(client, &id).await.map_err(|error| error.within(operation.clone()))?;
        if server.status != "ERROR" {
            return Ok(Instance { id: id_of(&id, &tags)?, ports: addresses(&server, options) });
        }
        let error = fault(&server);
        if server.launched.is_some() || (is_new && (error.kind() == Kind::Quota || attempts >= ATTEMPTS)) {
            return Err(error.within(operation));
        }
        tracing::warn!(server = id, error = error.chain(), "the cloud gave up a server, which is started again");
        remove_server(client, &id).await.map_err(|error| error.within(operation.clone()))?;
    }
}

/// The server that carries these tags.
async fn find(client: &Client, tags: &Tags) -> Result<Option<Server>> {
    let all = Nova(client).servers().await?;
    let same = |server: &Server| marks::of_metadata(&server.metadata).is_some_and(|(_, known)| known == *tags);
    Ok(all.into_iter().find(|server| same(server) && server.task.as_deref() != Some("deleting")))
}

async fn start(
    site: &OpenStackSite,
    image: &ImageId,
    options: &LaunchOptions,
    token: &Token,
    role: Role,
) -> Result<String> {
    let client = &site.client;
    let boot = image::show(client, image).await?;
    let point = image::point_of(&boot).ok_or_else(|| {
        Error::new(Kind::Invalid, format!("cannot use image {image}")).because("it carries no restore point")
    })??;
    crate::without_tpm(&point.server, &point.machine);
    let spec = site.config.restore.of(&point.server);
    let wanted = Wanted { client, point: &point, spec: &spec, token, role };
    let form = server_form(&boot, &wanted, options).await?;
    let Networks(networks) = match options.network {
        Network::Isolated => net::isolated(client, &point.machine, token).await?,
        Network::Site => net::of_site(client, &spec, &point.machine, token, role).await?,
    };
    let mut form = form;
    form["networks"] = json!(networks);
    form["metadata"] = json!(token.tags(role));
    crash::point("openstack.server-create.before");
    let server = Nova(client).create(options.name.as_str(), &form).await?;
    crash::point("openstack.server-create.after");
    Ok(server)
}

/// What Nova is asked for, but for networks and marks.
async fn server_form(boot: &Image, wanted: &Wanted<'_>, options: &LaunchOptions) -> Result<Value> {
    let Wanted { client, point, spec, .. } = wanted;
    let from_volume = spec.boot_from_volume.unwrap_or(false);
    let disks = image::disks_of(boot);
    let mut form = json!({
        "name": options.name.as_str(),
        "flavorRef": flavor(client, point, spec, from_volume).await?.id,
    });
    if from_volume || disks.len() > 1 {
        if !client.has(Service::Volume).await? {
            return Err(Error::new(Kind::Invalid, format!("cannot use image {}", boot.id))
                .because("its disks need volumes, and the cloud has no Cinder"));
        }
        form["block_device_mapping_v2"] = json!(wanted.devices(&disks, from_volume).await?);
    }
    if !from_volume {
        form["imageRef"] = json!(boot.id);
    }
    if let Some(groups) = &spec.security_groups {
        form["security_groups"] = json!(groups.iter().map(|group| json!({ "name": group })).collect::<Vec<_>>());
    }
    if let Some(key) = &spec.key {
        form["key_name"] = json!(key);
    }
    if let Some(zone) = &spec.zone {
        form["availability_zone"] = json!(zone);
    }
    if let Some(file) = &spec.user_data {
        form["user_data"] = json!(user_data(file).await?);
    }
    Ok(form)
}

/// The flavour that is configured, or the smallest that has what the machine had.
async fn flavor(client: &Client, point: &RestorePoint, spec: &LaunchSpec, from_volume: bool) -> Result<Flavor> {
    let mut known = Nova(client).flavors().await?;
    if let Some(wanted) = &spec.flavor {
        let found = known.into_iter().find(|flavor| flavor.id == *wanted || flavor.name == *wanted);
        return found.ok_or_else(|| {
            Error::new(Kind::Invalid, format!("cannot use flavour {wanted}"))
                .because("there is none of that id or name")
        });
    }
    let machine = &point.machine;
    let (memory, disk) = (machine.memory.div_ceil(MIB), point.disks.first().map_or(0, |disk| disk.size.div_ceil(GIB)));
    let holds = |flavor: &Flavor| from_volume || flavor.disk == 0 || flavor.disk >= disk;
    known.retain(|flavor| flavor.ram >= memory && flavor.vcpus >= machine.vcpus && holds(flavor));
    known.into_iter().min_by_key(|flavor| (flavor.ram, flavor.vcpus, flavor.disk)).ok_or_else(|| {
        let wanted = format!("{memory} MiB of memory, {} processors and {disk} GiB of disk", machine.vcpus);
        Error::new(Kind::Quota, "cannot choose a flavour")
            .because(format!("none has {wanted}"))
            .hint("name one in `flavor` of the site's `restore`")
    })
}

async fn user_data(file: &std::path::Path) -> Result<String> {
    let what = format!("cannot use user data {}", file.display());
    let bytes = tokio::fs::read(file).await.map_err(|error| Error::io(what.clone(), error))?;
    if bytes.len() as u64 > USER_DATA {
        return Err(Error::new(Kind::Invalid, what).because(format!("it has more than {USER_DATA} bytes")));
    }
    Ok(STANDARD.encode(bytes))
}

/// Waits until a server runs, has run, or has been given up by the cloud, and shows it.
async fn settled(client: &Client, id: &str) -> Result<Server> {
    let end = Instant::now() + UP;
    let mut told = String::new();
    loop {
        let server = Nova(client).server(id).await?;
        // a guest that powered off at once has run
        if ["ACTIVE", "SHUTOFF", "ERROR"].contains(&server.status.as_str()) {
            return Ok(server);
        }
        if Instant::now() >= end {
            let why = format!("it is still in {} after {} s", server.status, UP.as_secs());
            return Err(Error::new(Kind::Permanent, format!("cannot start server {id}")).because(why));
        }
        let now = format!("{} {}", server.status, server.task.unwrap_or_default());
        if now != told {
            tracing::info!(server = id, state = now, "waiting for a server to become active");
            told = now;
        }
        sleep(POLL).await;
    }
}

/// Why a server did not come up.
fn fault(server: &Server) -> Error {
    let why = server.fault.as_ref().map_or("the cloud does not say why", |fault| fault.message.as_str());
    let full = why.contains("No valid host") || why.contains("exceed");
    let kind = if full { Kind::Quota } else { Kind::Permanent };
    Error::new(kind, format!("cannot start server {}", server.id)).because(why.to_owned())
}

/// Where the asked ports can be reached: at the server's first address.
fn addresses(server: &Server, options: &LaunchOptions) -> Vec<(u16, std::net::SocketAddr)> {
    let all = server.addresses.values().flatten();
    let mut ips: Vec<_> =
        all.filter_map(|address| Some((address.kind.as_deref(), address.addr.parse().ok()?))).collect();
    // one that is meant to be reached from elsewhere is the better one
    ips.sort_by_key(|(kind, _)| *kind != Some("floating"));
    let Some((_, ip)) = ips.first() else { return Vec::new() };
    options.ports.iter().map(|port| (*port, std::net::SocketAddr::new(*ip, *port))).collect()
}

/// Looks at an instance.
pub(super) async fn probe(client: &Client, instance: &InstanceId) -> Result<ProbeState> {
    let server = Nova(client).server(parts(instance).0).await?;
    let scratch = marks::of_metadata(&server.metadata).is_some_and(|(role, _)| role == Role::Scratch);
    let panicked = scratch && console(client, instance).await?.contains("Kernel panic - not syncing");
    Ok(ProbeState { running: server.status == "ACTIVE" && server.power == Some(1), agent: false, panicked })
}

/// The console so far; nothing of a server that has none yet.
pub(super) async fn console(client: &Client, instance: &InstanceId) -> Result<String> {
    match Nova(client).console(parts(instance).0).await {
        // the instance has not got so far, or is off
        Err(error) if error.kind() == Kind::Transient => Ok(String::new()),
        other => other,
    }
}

/// Deletes the server, then what it was connected to.
pub(in crate::openstack) async fn destroy(client: &Client, instance: &InstanceId) -> Result<()> {
    let (server, name) = parts(instance);
    let name = match name {
        Some(name) => Some(name.to_owned()),
        None => match Nova(client).server(server).await {
            Ok(found) => marks::of_metadata(&found.metadata).and_then(|(_, tags)| {
                let id = id_of(server, &tags).ok()?;
                parts(&id).1.map(str::to_owned)
            }),
            Err(error) if error.kind() == Kind::NotFound => None,
            Err(error) => return Err(error),
        },
    };
    remove_server(client, server).await?;
    let Some(name) = name else { return Ok(()) };
    if client.has(Service::Volume).await? {
        volumes::remove(client, &name).await?;
    }
    if client.has(Service::Network).await? {
        net::remove(client, &name).await?;
    }
    Ok(())
}

async fn remove_server(client: &Client, id: &str) -> Result<()> {
    crash::point("openstack.server-delete.before");
    Nova(client).delete(id).await?;
    crash::point("openstack.server-delete.after");
    wait_gone(client, id).await
}

async fn wait_gone(client: &Client, id: &str) -> Result<()> {
    let end = Instant::now() + GONE;
    loop {
        let server = match Nova(client).server(id).await {
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            server => server?,
        };
        if server.status == "DELETED" {
            return Ok(());
        }
        if Instant::now() >= end {
            let why = format!("it is still there, in {}, {} s after it was told to go", server.status, GONE.as_secs());
            return Err(Error::new(Kind::Permanent, format!("cannot delete server {id}")).because(why));
        }
        tracing::debug!(server = id, status = server.status, "waiting for a server to go");
        sleep(POLL).await;
    }
}
