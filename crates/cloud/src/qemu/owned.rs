//! What captures have left at the site, and removing it.
//!
//! * `capture`, scratch: a capture that was not released, with everything that belongs to it (filters, exports,
//!   scratch files, a guest that may be frozen or paused). Deleting it abandons it.
//! * `bitmap`, replica: the base of the next increment. It has no end of its own: the next committed capture of the
//!   policy replaces it. Deleting it makes the next capture a full read.

use std::collections::BTreeSet;

use model::{Kind, Result, Role, Tags, tag};
use serde_json::json;

use super::guest::{Blocks, PREFIX};
use super::qmp::Qmp;
use super::session::{Record, Session, remove_cursor};
use super::{QemuSite, offline, release};
use crate::{Outcome, Resource};

/// Kind of a capture's resource.
pub(super) const CAPTURE: &str = "capture";
/// Kind of a bitmap's resource.
pub(super) const BITMAP: &str = "bitmap";

/// Everything that captures have left, of every owner.
pub(super) async fn owned(site: &QemuSite) -> Result<Vec<Resource>> {
    let scratch = site.scratch();
    let resource = |kind: &str, id: String, role: Role, tags: Tags| Resource { kind: kind.to_owned(), id, role, tags };
    let mut found = Vec::new();
    let mut known = BTreeSet::new();
    for Record { session, .. } in Record::all(&scratch).await? {
        found.push(resource(CAPTURE, session.key.clone(), Role::Scratch, session.token.tags(Role::Scratch)));
        known.insert(session.key);
    }
    for Record { session, .. } in Record::cursors(&scratch).await? {
        found.push(resource(BITMAP, session.bitmap.clone(), Role::Replica, session.token.tags(Role::Replica)));
    }
    for (server, socket) in site.sockets().await? {
        let mut qmp = match Qmp::connect(&socket).await {
            Ok(qmp) => qmp,
            Err(error) if error.kind() == Kind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let blocks = Blocks::read(&mut qmp).await?;
        let keys = blocks.ours().filter_map(|name| name.trim_start_matches(PREFIX).rsplit_once('-'));
        let keys: BTreeSet<String> = keys.map(|(key, _)| key.to_owned()).collect();
        for key in keys.into_iter().filter(|key| !known.contains(key)) {
            // its record is gone, so nothing tells whose it is but the hash in its name
            let tags = [
                (tag::SERVER, server.to_string()),
                (tag::OWNER, format!("unknown:{}", key.split('-').next().unwrap_or_default())),
                (tag::ROLE, "scratch".to_owned()),
            ];
            let tags = tags.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            found.push(resource(CAPTURE, format!("{server}/{key}"), Role::Scratch, tags));
        }
    }
    Ok(found)
}

/// Deletes a capture or a bitmap; absent is success.
pub(super) async fn delete(site: &QemuSite, resource: &Resource) -> Result<()> {
    let scratch = site.scratch();
    match resource.kind.as_str() {
        CAPTURE => match resource.id.split_once('/') {
            Some((server, key)) => delete_stray(site, server, key).await,
            None => match Record::load(&scratch, &resource.id).await? {
                Some(record) => release::release(site, &record.session, Outcome::Abandoned).await,
                None => Ok(()),
            },
        },
        BITMAP => match Record::cursor(&scratch, &resource.id).await? {
            Some(record) => {
                delete_bitmap(&record.session).await?;
                remove_cursor(&scratch, &resource.id).await
            }
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

async fn delete_stray(site: &QemuSite, server: &str, key: &str) -> Result<()> {
    let socket = match site.socket(&server.parse()?).await {
        Ok(socket) => socket,
        Err(error) if error.kind() == Kind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match Qmp::connect(&socket).await {
        Ok(mut qmp) => release::clear(&mut qmp, &format!("{PREFIX}{key}-")).await,
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

async fn delete_bitmap(session: &Session) -> Result<()> {
    let mut qmp = match Qmp::connect(&session.monitor).await {
        Ok(qmp) => qmp,
        Err(error) if error.kind() == Kind::NotFound => {
            for disk in session.disks.iter().filter(|disk| disk.persistent && disk.file.exists()) {
                offline::remove_bitmap(disk, &session.bitmap).await?;
            }
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let blocks = Blocks::read(&mut qmp).await?;
    for disk in session.disks.iter().filter(|disk| disk.tracked) {
        let Some(node) = release::node_of(&blocks, disk) else { continue };
        if blocks.bitmap(&node, &session.bitmap).is_some() {
            let arguments = json!({ "node": node, "name": session.bitmap });
            qmp.execute("block-dirty-bitmap-remove", arguments).await?;
        }
    }
    Ok(())
}
