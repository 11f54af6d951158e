//! The configuration of a site as it is written in TOML, of whatever kind.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

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

/// How images are brought to OpenStack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawImport {
    /// Their bytes are staged at Glance, which then imports them.
    GlanceDirect,
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
    /// `openstack`: how images are brought where not by an upload: `glance-direct`, for clouds that check or convert what
    /// they import.
    pub import: Option<RawImport>,
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
#[cfg_attr(not(feature = "aws"), expect(dead_code, reason = "it is understood, and then refused"))]
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
