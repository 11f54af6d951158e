//! What the files may say: the types that the JSON Schemas are generated from. Everything is optional or a plain
//! text here; whether it makes sense is decided by `check`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

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

/// The provider of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SiteKind {
    /// A host with QEMU guests, reached by their QMP sockets.
    Qemu,
    /// A project in one region of an OpenStack cloud.
    Openstack,
    /// An account in one region of AWS.
    Aws,
    /// A resource group in one region of Azure.
    Azure,
}

impl SiteKind {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            SiteKind::Qemu => "qemu",
            SiteKind::Openstack => "openstack",
            SiteKind::Aws => "aws",
            SiteKind::Azure => "azure",
        }
    }
}

/// A format of disk files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawFormat {
    /// Plain bytes, holes left out.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

/// How guests are emulated at a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawAccelerator {
    /// KVM where the host has it, emulation otherwise.
    Auto,
    /// KVM or nothing.
    Kvm,
    /// Emulation only.
    Tcg,
}

/// One account in one region of one cloud, or one hypervisor host.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawSite {
    /// The provider.
    #[schemars(required)]
    pub kind: Option<SiteKind>,
    /// Pattern of the guests' QMP sockets (`/run/guests/*.qmp`), or their folder. Beside a socket `web-1.qmp` may lie
    /// `web-1.toml`, which describes the server. Leave it out where nothing is captured.
    pub sockets: Option<String>,
    /// Folder that restored disks and images are put into. Leave it out where nothing is restored to.
    pub disks: Option<String>,
    /// Folder for what a capture, a drill or an upload needs for a while. Default: `<disks>/.scratch`; at
    /// `openstack`, `aws` and `azure`, `/var/tmp/replicate`.
    pub scratch: Option<String>,
    /// Format of restored disks; at `openstack`, of images: `raw` where Glance is on Ceph. Default: `qcow2`.
    pub format: Option<RawFormat>,
    /// How restored guests are run. Default: `auto`.
    pub accelerator: Option<RawAccelerator>,
    /// Bridge that restored servers are joined to (`br0`). Default: QEMU's user network.
    pub bridge: Option<String>,
    /// What the site charges. Plans tell costs from it, and the cheaper way is taken.
    pub prices: Option<RawPrices>,
    /// `openstack`: the cloud's entry in `clouds.yaml`, which has its address and credentials.
    pub cloud: Option<String>,
    /// `openstack`: the `clouds.yaml`; relative to this file. Default: as every OpenStack tool finds it.
    pub clouds_file: Option<String>,
    /// `openstack` and `aws`: the region. Default: as the entry of `clouds.yaml` says; `aws` needs it.
    pub region: Option<String>,
    /// `openstack`: which addresses of the catalogue are used: `public`, `internal` or `admin`. Default: as the entry
    /// says, else `public`.
    pub interface: Option<String>,
    /// At a cloud: what restored servers get there.
    pub restore: Option<RawRestore>,
    /// `azure`: the subscription's id.
    pub subscription: Option<String>,
    /// `azure`: the resource group that is worked in.
    pub resource_group: Option<String>,
    /// `azure`: the region (`westeurope`). Things of the group in other regions are passed over.
    pub location: Option<String>,
    /// `azure`: who signs in. Default: the application of `tenant`, `client` and `secret`.
    pub identity: Option<AzureIdentity>,
    /// `azure`: the directory's id.
    pub tenant: Option<String>,
    /// `azure`: the id of the application that is signed in as; of `managed`, the user-assigned identity's client id.
    pub client: Option<String>,
    /// `azure`: where the application's secret is: `env:NAME` or `file:/path`.
    pub secret: Option<String>,
    /// `azure`: instead of the secret, where the application's certificate and its key are, as PEM: `file:/path`.
    pub certificate: Option<String>,
    /// `azure`: kind of storage of managed disks. Default: `StandardSSD_LRS`.
    pub storage: Option<String>,
    /// `azure`: id of the disk encryption set that replicas and restored disks are encrypted with. Default: the platform's
    /// key.
    pub disk_encryption_set: Option<String>,
    /// `azure`: address of the Resource Manager. Default: `https://management.azure.com`.
    pub arm_endpoint: Option<String>,
    /// `azure`: address of Entra ID. Default: `https://login.microsoftonline.com`.
    pub login_endpoint: Option<String>,
    /// `aws`: a profile of the AWS files. Default: keys as every AWS tool finds them, from the environment to the
    /// instance's role.
    pub profile: Option<String>,
    /// `aws`: ARN of a role that is assumed with those keys.
    pub role: Option<String>,
    /// `aws`: ARN of the KMS key that replicas are encrypted with. Default: as the account encrypts by itself.
    pub kms_key: Option<String>,
    /// `aws`: who freezes the file systems of guests for a capture: `ssm`, Systems Manager's agent in the guest. Default:
    /// nobody, and captures are crash consistent.
    pub freeze: Option<RawFreeze>,
    /// `aws`: addresses that stand above AWS's own.
    pub endpoints: Option<RawEndpoints>,
}

/// Who freezes guests at AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawFreeze {
    /// Systems Manager's agent in the guest.
    Ssm,
}

/// Addresses of AWS services, for private endpoints.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawEndpoints {
    /// EC2.
    pub ec2: Option<String>,
    /// EBS direct.
    pub ebs: Option<String>,
    /// STS.
    pub sts: Option<String>,
    /// Systems Manager.
    pub ssm: Option<String>,
}

/// What restored servers get at a cloud.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawRestore {
    /// `aws`: instance type (`m6i.large`). Default: the smallest that fits.
    pub instance_type: Option<String>,
    /// `aws` and `azure`: id of the subnet. Default: at `aws`, one of the default VPC.
    pub subnet: Option<String>,
    /// Flavour, by name or id. Default: the smallest that fits.
    pub flavor: Option<String>,
    /// Networks, in the order of the server's cards. Default: the one network that the project has.
    pub networks: Option<Vec<RawNetwork>>,
    /// Security groups, by name or id; at `aws` and `azure` by id, at `azure` one. Default: the project's, or the VPC's
    /// default group, and none at `azure`.
    pub security_groups: Option<Vec<String>>,
    /// Key pair, by name.
    pub key: Option<String>,
    /// File that is handed to the guest as user data; relative to this file.
    pub user_data: Option<String>,
    /// Availability zone.
    pub availability_zone: Option<String>,
    /// Boot from a volume that is made of the image. Default: false.
    pub boot_from_volume: Option<bool>,
    /// Type of that volume. Default: the cloud's.
    pub volume_type: Option<String>,
    /// `azure`: size of the machine (`Standard_B2s`).
    pub size: Option<String>,
    /// `azure`: id of a subnet that reaches nothing, for drills, which are refused without it.
    pub drill_subnet: Option<String>,
    /// `azure`: whether the system is Windows. Default: false.
    pub windows: Option<bool>,
    /// What single servers get instead, by their name.
    #[serde(default)]
    pub servers: BTreeMap<String, RawRestore>,
}

/// A network card of a restored server.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawNetwork {
    /// The network, by name or id.
    #[schemars(required)]
    pub network: Option<String>,
    /// A fixed address there.
    pub address: Option<String>,
    /// Hardware address: `keep` for the one that the server had, or `fa:16:3e:...`. Default: a new one.
    pub mac: Option<String>,
}

/// What a site charges for a GiB; what is left out is not known, and no cost is told that needs it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawPrices {
    /// In which currency (`EUR`). Costs are compared within one only.
    #[schemars(required)]
    pub currency: Option<String>,
    /// For a GiB that is written to it through this host.
    pub inbound: Option<f64>,
    /// For a GiB that the provider copies from it to another of its sites.
    pub relay: Option<f64>,
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

/// Who signs in to Azure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AzureIdentity {
    /// The application of `tenant`, `client` and `secret` (or `certificate`).
    Application,
    /// The managed identity of the machine that this runs on.
    Managed,
    /// The workload identity of the Kubernetes pod that this runs in.
    Workload,
    /// Whoever is logged in with `az login`.
    Cli,
}

impl AzureIdentity {
    /// As it is written.
    #[cfg(feature = "azure")]
    pub fn word(self) -> &'static str {
        match self {
            AzureIdentity::Application => "application",
            AzureIdentity::Managed => "managed",
            AzureIdentity::Workload => "workload",
            AzureIdentity::Cli => "cli",
        }
    }
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
