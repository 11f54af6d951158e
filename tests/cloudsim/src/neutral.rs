//! Everything that there is, in one list without any provider's words: for checks that nothing was left behind.

use serde_json::{Value, json};

use crate::azure::state::Kind;
use crate::sim::Sim;
use crate::world::resource::Wish;

/// All resources of all accounts and regions, seen or not.
pub(crate) fn state(sim: &Sim) -> Value {
    let (blocks, held) = sim.blocks.count();
    let resources = sim.with(|world| {
        let now = world.now();
        let mut all = Vec::new();
        for (kind, base) in world.bases() {
            let id = base.id.as_str();
            let mut line = json!({
                "kind": kind, "id": id, "account": base.account, "region": base.region,
                "tags": base.tags, "created": base.created,
            });
            let (state, about) = match kind {
                "snapshot" => world.snapshots.get(id).map(|it| {
                    let about = json!({
                        "volume": it.volume, "parent": it.parent, "gib": it.gib, "encrypted": it.key.is_some(),
                        "blocks": sim.maps.with(id, |map| map.len()), "locked": it.lock.is_some(),
                        "key": it.key, "shared": it.shared,
                    });
                    (it.state(now), about)
                }),
                "image" => world.images.get(id).map(|it| {
                    let snapshots: Vec<_> = it.mappings.iter().filter_map(|at| at.snapshot.clone()).collect();
                    let about = json!({
                        "name": it.name, "snapshots": snapshots, "shared": it.shared, "protected": it.protected,
                        "deprecated": it.deprecated.is_some(),
                    });
                    (it.state(now), about)
                }),
                "volume" => world.volumes.get(id).map(|it| {
                    let instance = it.attached.as_ref().map(|at| at.instance.clone());
                    let state = if instance.is_some() { "attached" } else { "free" };
                    (state, json!({ "instance": instance, "gib": it.gib, "snapshot": it.snapshot }))
                }),
                "instance" => world.instances.get(id).map(|it| {
                    let state = match it.wish {
                        Wish::Running => "running",
                        Wish::Stopped => "stopped",
                        Wish::Terminated => "gone",
                    };
                    (state, json!({ "image": it.image, "machine": sim.machines.is_running(id) }))
                }),
                _ => world
                    .groups
                    .get(id)
                    .filter(|it| !it.is_default)
                    .map(|it| ("there", json!({ "name": it.name, "isolated": !it.open_egress }))),
            }
            .unwrap_or(("default", Value::Null));
            // what the provider has made itself is nobody's left-over
            if state != "default" {
                line["state"] = json!(state);
                line["about"] = about;
                all.push(line);
            }
        }
        all
    });
    json!({ "azure": azure(sim), "resources": resources, "blocks": { "stored": blocks, "held": held }, "boots": sim.machines.real })
}

/// The Azure half.
fn azure(sim: &Sim) -> Vec<Value> {
    sim.with(|world| {
        let resources = world.azure.resources.values().map(|it| {
            let kind = match it.kind {
                Kind::Disk { .. } => "disk",
                Kind::Snapshot { .. } if it.id.contains("/diskRestorePoints/") => "disk of a point",
                Kind::Snapshot { .. } if it.id.contains("/galleries/") => "disk of a version",
                Kind::Snapshot { .. } => "snapshot",
            };
            let open = it.access.is_some();
            json!({
                "kind": kind, "id": it.id, "region": it.location, "tags": it.tags, "file": it.unique,
                "encryption": it.encryption, "state": if open { "open" } else { "there" },
            })
        });
        let machines = world.azure.machines.values().map(|it| {
            json!({
                "kind": "machine", "id": it.id, "region": it.location, "tags": it.tags, "state": it.power,
                "security": it.security,
            })
        });
        let collections = world.azure.collections.values().map(
            |it| json!({ "kind": "collection", "id": it.id, "region": it.location, "tags": it.tags, "state": "there" }),
        );
        let versions = world.azure.versions.values().map(
            |it| json!({ "kind": "version", "id": it.id, "region": it.location, "tags": it.tags, "state": "there" }),
        );
        let definitions = world.azure.definitions.values().map(|it| it.neutral());
        resources.chain(machines).chain(collections).chain(versions).chain(definitions).collect::<Vec<Value>>()
    })
}
