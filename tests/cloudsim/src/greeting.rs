//! The one line that the program prints: where everything is, and with which credentials it lets one in.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use crate::azure::encryption;
use crate::azure::state::{CLIENT, GROUPS, SECRET, SUBSCRIPTION, TENANT};
use crate::sim::Sim;
use crate::world::World;
use crate::world::resource::Base;

/// Endpoints by region, and credentials by account.
pub fn greeting(sim: &Sim, address: SocketAddr) -> Value {
    sim.with(|world| {
        let mut regions = Map::new();
        for name in world.accounts.values().flat_map(|account| &account.regions) {
            let at = |service: &str| format!("http://{address}/aws/{name}/{service}");
            regions.insert(
                name.clone(),
                json!({ "ec2": at("ec2"), "ebs": at("ebs"), "sts": at("sts"), "ssm": at("ssm") }),
            );
        }
        let mut accounts = Vec::new();
        for (id, account) in &world.accounts {
            let roles: Vec<String> =
                account.roles.iter().map(|role| format!("arn:aws:iam::{id}:role/{role}")).collect();
            for (key, secret) in &account.keys {
                accounts.push(json!({
                    "account": id, "access-key": key, "secret-key": secret.secret, "roles": roles,
                    "networks": networks(world, id),
                }));
            }
        }
        let azure = json!({
            "login": format!("http://{address}/azure/login"), "arm": format!("http://{address}/azure/arm"),
            "tenant": TENANT, "client": CLIENT, "secret": SECRET, "subscription": SUBSCRIPTION,
            "groups": GROUPS.iter().map(group).collect::<Vec<_>>(),
        });
        json!({
            "azure": azure,
            "control": format!("http://{address}/_sim"),
            "regions": regions,
            "accounts": accounts,
            "boots": if sim.machines.real { "instances boot in QEMU" } else { "instances do not boot (--no-qemu)" },
        })
    })
}

/// A resource group of Azure, where it is, and a key of its.
fn group((name, place): &(&str, &str)) -> Value {
    json!({ "name": name, "location": place, "encryption-set": encryption::id(name, "replicas") })
}

/// What an instance can be put into, by region.
fn networks(world: &World, account: &str) -> Value {
    let of = |base: &Base, region: &str| base.account == account && base.region == region;
    let regions = world.accounts.get(account).map(|it| it.regions.clone()).unwrap_or_default();
    let found = regions.into_iter().map(|region| {
        let subnet = world.subnets.values().find(|it| of(&it.base, &region)).map(|it| it.base.id.clone());
        let group = world.groups.values().find(|it| it.is_default && of(&it.base, &region));
        let key = world.key_pairs.values().find(|it| of(&it.base, &region)).map(|it| it.name.clone());
        let group = group.map(|it| it.base.id.clone());
        (region, json!({ "subnet": subnet, "security-group": group, "key": key }))
    });
    Value::Object(found.collect::<Map<String, Value>>())
}
