//! What the files may say: the types that the JSON Schemas are generated from. Everything is optional or a plain
//! text here; whether it makes sense is decided by `check`.

mod site;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

pub use self::site::*;

/// The main configuration file of replicate: sites, vaults, the ledger and the daemon.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(title = "replicate.toml")]
pub struct RawSettings {
    /// Folder of the ledger; relative to this file. Default: `/var/lib/replicate/ledger`.
    pub ledger: Option<String>,
    /// Folder of the policy files; relative to this file. Default: `policies`.
    pub policies: Option<String>,
    /// Places that servers run at or are restored to.
    #[serde(default)]
    pub sites: BTreeMap<String, RawSite>,
    /// Stores of archives.
    #[serde(default)]
    pub vaults: BTreeMap<String, RawVault>,
    /// The daemon.
    pub daemon: Option<RawDaemon>,
    /// When and after how long the daemon deletes.
    pub retention: Option<RawRetention>,
}

/// When and after how long the daemon deletes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawRetention {
    /// How long a replica stays after retention has marked it. Default: `72h`.
    pub replica_grace: Option<String>,
    /// How long a pack of a vault stays after no point needs it, at least `1h`. Default: `24h`.
    pub pack_grace: Option<String>,
    /// How often the daemon applies retention and looks for unneeded packs. Default: `6h`.
    pub every: Option<String>,
}

/// A deduplicated, encrypted store of archives in a bucket.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawVault {
    /// Where: `dir:/srv/vault`, `s3://bucket/prefix` or `azblob://container/prefix`.
    #[schemars(required)]
    pub url: Option<String>,
    /// Who can open the vault: its master key is wrapped for each of them when the vault is created.
    #[schemars(required)]
    pub recipients: Option<Vec<RawRecipient>>,
    /// What this host opens the vault with. Default: the passphrases among the recipients.
    pub identities: Option<Vec<RawIdentity>>,
    /// Settings of `s3://` vaults.
    pub s3: Option<RawS3>,
    /// Settings of `azblob://` vaults.
    pub azblob: Option<RawAzblob>,
    /// Level of zstd, 1 to 19. Default: 3.
    #[schemars(range(min = 1, max = 19))]
    pub compression: Option<i32>,
    /// Threads that compress and encrypt. Default: as many as the host has processors.
    #[schemars(range(min = 0, max = 1024))]
    pub threads: Option<u32>,
    /// When the daemon compacts the vault, and what is worth it.
    pub compact: Option<RawCompact>,
}

/// When a vault is compacted, and what is worth it: what points need is moved out of packs that hold much else.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawCompact {
    /// How often the daemon does it, or `never`. It looks when it applies retention. Default: `7d`.
    pub every: Option<String>,
    /// Packs of whose bytes no point needs so many percent are worth it. Default: 25.
    #[schemars(range(min = 5, max = 100))]
    pub waste: Option<u8>,
    /// Level of zstd of what is written, 1 to 19. Default: 9. 17 makes another 4 % less in eight times the time.
    #[schemars(range(min = 1, max = 19))]
    pub level: Option<i32>,
    /// Packs that are as old and were compressed at a lower level are compressed again. Default: never. It is
    /// done when nobody else wants the processors.
    pub recompress_after: Option<String>,
}

/// Someone who can open a vault. Exactly one of the keys.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawRecipient {
    /// File whose first line is a passphrase.
    pub passphrase_file: Option<String>,
    /// Environment variable that holds a passphrase.
    pub passphrase_env: Option<String>,
    /// A public age key (`age1...`); its secret half is best kept away from this host.
    pub age: Option<String>,
}

/// What opens a vault. Exactly one of the keys.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawIdentity {
    /// File whose first line is a passphrase.
    pub passphrase_file: Option<String>,
    /// Environment variable that holds a passphrase.
    pub passphrase_env: Option<String>,
    /// File with a secret age key (`AGE-SECRET-KEY-...`), as `age-keygen` writes it.
    pub age_file: Option<String>,
    /// Environment variable that holds a secret age key.
    pub age_env: Option<String>,
}

/// How an S3 bucket is reached. Without keys: the usual chain of environment, profile and instance role.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawS3 {
    /// Address of an S3-compatible service, `https://minio.example:9000`. Default: AWS.
    pub endpoint: Option<String>,
    /// Region. Default: from the environment.
    pub region: Option<String>,
    /// Put the bucket into the path rather than into the host name. Default: false.
    pub path_style: Option<bool>,
    /// A profile of the AWS configuration files.
    pub profile: Option<String>,
    /// Access key, by reference: `env:NAME` or `file:/path`.
    pub access_key: Option<String>,
    /// Secret key, by reference: `env:NAME` or `file:/path`.
    pub secret_key: Option<String>,
    /// Session token, by reference: `env:NAME` or `file:/path`.
    pub session_token: Option<String>,
}

/// How a container of an Azure storage account is reached: by the account's key, or by who signs in.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(not(feature = "azure"), expect(dead_code, reason = "it is understood, and then refused"))]
pub struct RawAzblob {
    /// Name of the storage account.
    #[schemars(required)]
    pub account: Option<String>,
    /// Its address. Default: `https://ACCOUNT.blob.core.windows.net`.
    pub endpoint: Option<String>,
    /// One of the account's two keys, by reference: `env:NAME` or `file:/path`. It opens everything in the account; an
    /// identity with the role Storage Blob Data Contributor of the container does not.
    pub account_key: Option<String>,
    /// Who signs in. Default: the application of `tenant`, `client` and `secret`.
    pub identity: Option<AzureIdentity>,
    /// The directory's id.
    pub tenant: Option<String>,
    /// The application's id; of `managed`, the user-assigned identity's client id.
    pub client: Option<String>,
    /// Where the application's secret is: `env:NAME` or `file:/path`.
    pub secret: Option<String>,
    /// Instead of the secret, where the application's certificate and its key are, as PEM: `file:/path`.
    pub certificate: Option<String>,
    /// Address of Entra ID. Default: `https://login.microsoftonline.com`.
    pub login_endpoint: Option<String>,
}

/// Form of the daemon's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawLog {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The daemon.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawDaemon {
    /// Unix socket of its API; relative to this file. Default: `replicate.sock` beside the ledger.
    pub socket: Option<String>,
    /// How long runs may go on after SIGTERM before they are parked. Default: `30s`.
    pub stop_limit: Option<String>,
    /// Form of the log. Default: `text`.
    pub log: Option<RawLog>,
    /// How many runs go on at the same time. Default: 2.
    #[schemars(range(min = 1, max = 64))]
    pub parallel_runs: Option<u32>,
}
