//! What disks and snapshots are encrypted with: the platform's key, or a disk encryption set, whose key is the customer's.
//!
//! What a site makes has the set that it is configured with. A set that cannot be used here is refused before anything is
//! made: Azure would notice it with the first disk, when a server was captured already. A snapshot of a disk has the disk's
//! own set, whatever the configuration says: Azure takes no other.

use model::{Error, Kind, Result};
use serde_json::{Value, json};

use super::AzureSite;
use super::arm::Shown;

/// The kinds of sets that disks of ordinary machines are encrypted with.
const KINDS: [&str; 2] = ["EncryptionAtRestWithCustomerKey", "EncryptionAtRestWithPlatformAndCustomerKeys"];

/// The set that something is encrypted with; none: the platform's key.
pub(super) fn set_of(it: &Shown) -> Option<&str> {
    it.text("/encryption/diskEncryptionSetId")
}

/// What something is encrypted with, in the words of a request.
pub(super) fn of(it: &Shown) -> Value {
    match set_of(it) {
        Some(set) => json!({ "type": it.text("/encryption/type"), "diskEncryptionSetId": set }),
        None => platform(),
    }
}

fn platform() -> Value {
    json!({ "type": "EncryptionAtRestWithPlatformKey" })
}

impl AzureSite {
    /// What everything that is made here is encrypted with. The set is looked at once.
    pub(super) async fn encryption(&self) -> Result<Value> {
        let Some(set) = &self.config.encryption_set else { return Ok(platform()) };
        if let Some(known) = self.encryption.get() {
            return Ok(known.clone());
        }
        let found = self.look_at_set(set).await?;
        Ok(self.encryption.get_or_init(|| found).clone())
    }

    async fn look_at_set(&self, set: &str) -> Result<Value> {
        let refused = |why: String| {
            Error::new(Kind::Invalid, format!("cannot encrypt with disk encryption set {set}"))
                .because(why)
                .hint(format!("name one of site {}'s own region as its `disk-encryption-set`", self.config.site))
        };
        let found = self.client()?.find_set(set).await?.ok_or_else(|| refused("it does not exist".to_owned()))?;
        if !found.location.eq_ignore_ascii_case(&self.config.location) {
            return Err(refused(format!("it is in {}, and the site in {}", found.location, self.config.location)));
        }
        match found.text("/encryptionType").filter(|kind| KINDS.contains(kind)) {
            Some(kind) => Ok(json!({ "type": kind, "diskEncryptionSetId": found.id })),
            None => Err(refused("it is for the disks of confidential machines".to_owned())),
        }
    }
}
