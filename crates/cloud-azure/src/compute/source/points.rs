//! Restore points: all disks of a running machine at one instant. A capture is a collection of its own with one point in
//! it, since a collection has tags and a point has none; what the point holds of a disk is read as a snapshot is, and is
//! compared with what an earlier capture holds of it, whatever that is, as long as both are of one family.
//!
//! A collection goes with all that is in it.

use model::{Error, Kind, Result, Tags};
use serde_json::{Value, json};

use super::super::arm::{Shown, What};
use super::super::http::Client;
use super::capture::Part;

/// The name of the one point of a collection.
const POINT: &str = "all";

fn point(stem: &str) -> String {
    format!("{stem}/restorePoints/{POINT}")
}

/// Pins all disks of a machine, under marks that stand in the collection.
pub(super) async fn make(client: &Client, machine: &Shown, stem: &str, tags: &Tags) -> Result<()> {
    let location = &client.config.location;
    let body = json!({ "location": location, "tags": tags, "properties": { "source": { "id": machine.id } } });
    client.create(What::Collection, stem, &body, false).await?;
    let body = json!({ "properties": { "consistencyMode": "CrashConsistent" } });
    let made = client.create(What::Point, &point(stem), &body, false).await;
    let Err(error) = made else { return Ok(()) };
    if error.kind() != Kind::Invalid {
        return Err(error);
    }
    // in a collection of this very attempt a point is there because the call has taken effect twice
    match client.find(What::Point, &point(stem)).await? {
        Some(known) if is_whole(&known) => Ok(()),
        Some(_) => Err(Error::new(Kind::Transient, format!("cannot use restore point {stem}"))
            .because("it was asked for twice, and is still being made")),
        None => Err(error),
    }
}

fn is_whole(point: &Shown) -> bool {
    point.text("/provisioningState") == Some("Succeeded")
}

/// What the point of a collection holds; nothing if there is no such point, or it is not whole.
pub(super) async fn parts(client: &Client, collection: &Shown) -> Result<Vec<Part>> {
    let point = client.find(What::Point, &point(&collection.name)).await?;
    let Some(point) = point.filter(is_whole) else { return Ok(Vec::new()) };
    let storage = point.properties.pointer("/sourceMetadata/storageProfile").cloned().unwrap_or_default();
    let data = storage.get("dataDisks").and_then(Value::as_array).into_iter().flatten();
    let lun = |disk: &Value| format!("lun-{}", disk.get("lun").and_then(Value::as_u64).unwrap_or_default());
    let os = storage.get("osDisk").map(|disk| ("os".to_owned(), disk));
    let mut parts = Vec::new();
    for (disk, shown) in os.into_iter().chain(data.map(|disk| (lun(disk), disk))) {
        let text = |path: &str| shown.pointer(path).and_then(Value::as_str);
        // a disk that is no managed one is not in the point
        let Some((_, name)) = text("/diskRestorePoint/id").and_then(|id| id.rsplit_once('/')) else { continue };
        let name = format!("{}/restorePoints/{POINT}/diskRestorePoints/{name}", collection.name);
        let held = client.find(What::PointDisk, &name).await?.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("cannot find disk {disk} of restore point {}", collection.name))
                .because(format!("disk restore point {name} does not exist"))
        })?;
        parts.push(Part {
            what: What::PointDisk,
            name,
            disk,
            family: held.text("/familyId").map(str::to_owned),
            bytes: None,
            gib: shown.get("diskSizeGB").and_then(Value::as_u64),
            taken_at: point.text("/timeCreated").and_then(|text| text.parse().ok()),
        });
    }
    Ok(parts)
}

/// Deletes a collection and all that is in it. Absent is success.
pub(super) async fn remove(client: &Client, stem: &str) -> Result<()> {
    match client.delete(What::Collection, stem).await {
        // a dead process has left access to what it was reading
        Err(error) if error.kind() == Kind::Invalid && error.chain().contains("SAS") => {
            let Some(collection) = client.find(What::Collection, stem).await? else { return Ok(()) };
            for part in parts(client, &collection).await? {
                client.act(What::PointDisk, &part.name, "endGetAccess", &Value::Null).await?;
            }
            client.delete(What::Collection, stem).await
        }
        done => done,
    }
}
