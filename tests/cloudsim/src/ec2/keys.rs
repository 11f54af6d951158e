//! Encryption keys. There is no key service here: a key is whatever name of this region is given, and the region's
//! own default key cannot be shared with anybody.

use super::find::Cx;
use crate::store::hash_hex;

/// The default key of an account in a region.
pub(crate) fn default(account: &str, region: &str) -> String {
    let print = hash_hex(format!("ebs/{account}/{region}").as_bytes());
    let id = format!("{}-{}-{}-{}-{}", &print[..8], &print[8..12], &print[12..16], &print[16..20], &print[20..32]);
    format!("arn:aws:kms:{region}:{account}:key/{id}")
}

/// The key that a request means, if it wants any: `(key, whether this region can use it)`.
pub(crate) fn chosen(cx: &Cx<'_>, encrypted: bool, key: Option<String>) -> Option<(String, bool)> {
    match key {
        None if encrypted => Some((default(cx.account(), cx.region()), true)),
        None => None,
        Some(arn) if arn.starts_with("arn:aws:kms:") => {
            let fine = arn.split(':').nth(3) == Some(cx.region());
            Some((arn, fine))
        }
        Some(name) if name == "alias/aws/ebs" => Some((default(cx.account(), cx.region()), true)),
        Some(name) => {
            let kind = if name.starts_with("alias/") { "" } else { "key/" };
            Some((format!("arn:aws:kms:{}:{}:{kind}{name}", cx.region(), cx.account()), true))
        }
    }
}
