//! The validated form of `replicate.toml`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use cloud::openstack::{CloudRef, Restore};
use model::{Policy, PolicyName, PriceList, SiteName, VaultName};
use serde::Serialize;

pub use super::raw::{RawAccelerator as Accelerator, RawFormat as Format, RawLog as LogForm};
use super::value::SecretRef;

/// Everything that the files say, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file it came from.
    pub file: PathBuf,
    /// Folder of the ledger.
    pub ledger: PathBuf,
    /// Places that servers run at or are restored to.
    pub sites: BTreeMap<SiteName, SiteSettings>,
    /// What sites charge, as far as it is told.
    pub prices: PriceList,
    /// Stores of archives.
    pub vaults: BTreeMap<VaultName, VaultSettings>,
    /// The daemon.
    pub daemon: DaemonSettings,
    /// How long a doomed replica stays.
    pub replica_grace: Duration,
    /// How long an unneeded pack stays.
    pub pack_grace: Duration,
    /// How often the daemon applies retention.
    pub retention_every: Duration,
    /// All policies.
    pub policies: BTreeMap<PolicyName, Policy>,
}

/// A site. One form a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SiteSettings {
    /// A host with QEMU guests.
    Qemu(QemuSettings),
    /// A project in a region of an OpenStack cloud.
    OpenStack(Box<OpenStackSettings>),
    /// An account in a region of AWS.
    #[cfg(feature = "aws")]
    Aws(Box<super::aws::AwsSettings>),
    /// A resource group in a region of Azure.
    #[cfg(feature = "azure")]
    Azure(Box<super::azure::AzureSettings>),
}

/// A host with QEMU guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuSettings {
    /// Pattern or folder of QMP sockets.
    pub sockets: Option<PathBuf>,
    /// Where disks are put.
    pub disks: Option<PathBuf>,
    /// Where scratch is put.
    pub scratch: Option<PathBuf>,
    /// Format of restored disks.
    pub format: Format,
    /// How restored guests run.
    pub accelerator: Accelerator,
    /// Bridge that restored guests are joined to.
    pub bridge: Option<String>,
}

/// A project in a region of an OpenStack cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenStackSettings {
    /// Where it is and who we are there.
    pub cloud: CloudRef,
    /// Where images are put together.
    pub scratch: PathBuf,
    /// Format of images.
    pub format: Format,
    /// Whether images are staged and then imported.
    pub staged: bool,
    /// What restored servers get.
    pub restore: Restore,
}

/// Where a vault's bucket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BucketUrl {
    /// A folder.
    Dir(PathBuf),
    /// A prefix of an S3 bucket.
    S3 {
        /// The bucket.
        bucket: String,
        /// The prefix, without slashes around it; may be empty.
        prefix: String,
        /// How S3 is reached.
        settings: S3Settings,
    },
    /// A prefix of a container in an Azure storage account.
    #[cfg(feature = "azure")]
    Azblob {
        /// The container.
        container: String,
        /// The prefix, without slashes around it; may be empty.
        prefix: String,
        /// How the account is reached.
        settings: AzblobSettings,
    },
}

/// How a storage account is reached.
#[cfg(feature = "azure")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzblobSettings {
    /// Its name.
    pub account: String,
    /// Its address, if it is not the usual one.
    pub endpoint: Option<String>,
    /// Who we are there.
    pub access: AzblobAccess,
}

/// Who we are at a storage account.
#[cfg(feature = "azure")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AzblobAccess {
    /// Whoever holds the account's key.
    Key(SecretRef),
    /// Who signs in.
    Login(super::azure_login::AzureLogin),
}

/// Who can open a vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipientRef {
    /// Whoever knows a passphrase.
    Passphrase(SecretRef),
    /// Whoever holds the secret half of an age key.
    Age(String),
}

/// What this host opens a vault with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityRef {
    /// A passphrase.
    Passphrase(SecretRef),
    /// A secret age key.
    Age(SecretRef),
}

/// How S3 is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Settings {
    /// Address of an S3-compatible service.
    pub endpoint: Option<String>,
    /// Region.
    pub region: Option<String>,
    /// Bucket in the path.
    pub path_style: bool,
    /// Profile of the AWS files.
    pub profile: Option<String>,
    /// Access key, secret key, session token.
    pub keys: Option<(SecretRef, SecretRef, Option<SecretRef>)>,
}

/// A vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultSettings {
    /// Where.
    pub url: BucketUrl,
    /// Who can open it.
    pub recipients: Vec<RecipientRef>,
    /// What this host opens it with.
    pub identities: Vec<IdentityRef>,
    /// Level of zstd.
    pub compression: i32,
    /// Worker threads; 0: as many as processors.
    pub threads: usize,
    /// When it is compacted, and what is worth it.
    pub compact: engine::CompactSettings,
}

/// The daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonSettings {
    /// Its socket.
    pub socket: PathBuf,
    /// How long runs may go on after SIGTERM.
    pub stop_limit: Duration,
    /// Form of its log.
    pub log: LogForm,
    /// Runs at the same time.
    pub parallel_runs: usize,
}

/// What `replicate check` prints.
#[derive(Debug, Clone, Serialize, serde::Deserialize)]
pub struct Overview {
    /// The file.
    pub file: String,
    /// Names of the sites.
    pub sites: Vec<SiteName>,
    /// Names of the vaults.
    pub vaults: Vec<VaultName>,
    /// Names of the policies.
    pub policies: Vec<PolicyName>,
}

impl Settings {
    /// Whether these settings differ from the `old` ones in something that a running daemon cannot change.
    pub fn needs_restart(&self, old: &Settings) -> bool {
        self.ledger != old.ledger || self.daemon != old.daemon
    }

    /// What there is, in names.
    pub fn overview(&self) -> Overview {
        Overview {
            file: self.file.display().to_string(),
            sites: self.sites.keys().cloned().collect(),
            vaults: self.vaults.keys().cloned().collect(),
            policies: self.policies.keys().cloned().collect(),
        }
    }
}
