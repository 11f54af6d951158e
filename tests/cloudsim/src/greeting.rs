//! The one line that the program prints: where everything is, and with which credentials it lets one in.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use crate::azure::state::{CLIENT, GROUPS, SECRET, SUBSCRIPTION, TENANT};
use crate::sim::Sim;

/// Endpoints by region, and credentials by account.
pub fn greeting(sim: &Sim, address: SocketAddr) -> Value {
    sim.with(|world| {
        let mut regions = Map::new();
        for name in world.accounts.values().flat_map(|account| &account.regions) {
            let at = |service: &str| format!("http://{address}/aws/{name}/{service}");
            regions.insert(name.clone(), json!({ "ec2": at("ec2"), "ebs": at("ebs"), "sts": at("sts") }));
        }
        let mut accounts = Vec::new();
        for (id, account) in &world.accounts {
            let roles: Vec<String> =
                account.roles.iter().map(|role| format!("arn:aws:iam::{id}:role/{role}")).collect();
            for (key, secret) in &account.keys {
                accounts.push(json!({
                    "account": id, "access-key": key, "secret-key": secret.secret, "roles": roles,
                }));
            }
        }
        let azure = json!({
            "login": format!("http://{address}/azure/login"), "arm": format!("http://{address}/azure/arm"),
            "tenant": TENANT, "client": CLIENT, "secret": SECRET, "subscription": SUBSCRIPTION,
            "groups": GROUPS.iter().map(|(name, place)| json!({ "name": name, "location": place })).collect::<Vec<_>>(),
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
