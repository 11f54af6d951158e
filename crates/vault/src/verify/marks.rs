//! Marks of damage: they tell every later writer what not to rely on.

use model::{Result, crash};
use serde::{Deserialize, Serialize};

use crate::PackId;
use crate::keys::{broken, damaged};
use crate::seal::{Class, open_single, seal};
use crate::shared::Shared;

/// What a mark says of a pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mark {
    /// The whole pack is missing or unreadable.
    pub whole: bool,
    /// Frames that do not read back.
    pub frames: Vec<u32>,
}

/// Reads a mark.
pub(crate) async fn read_mark(shared: &Shared, key: &str) -> Result<Mark> {
    let object = shared.bucket.get(key, None).await?;
    let plain = open_single(&shared.keys, Class::Damage, key, &object)?;
    serde_json::from_slice(&plain).map_err(|_| damaged(format!("cannot read {key}"), "it is not a mark of damage"))
}

/// Writes a mark.
pub(crate) async fn write_mark(shared: &Shared, pack: PackId, mark: &Mark) -> Result<()> {
    let key = pack.damage_key();
    let plain = serde_json::to_vec(mark).map_err(|e| broken("a mark has no JSON").because(e))?;
    let object = seal(&shared.keys, Class::Damage, &key, &[&plain])?;
    crash::point("vault.damage.before");
    shared.create(&key, object).await?;
    crash::point("vault.damage.after");
    Ok(())
}
