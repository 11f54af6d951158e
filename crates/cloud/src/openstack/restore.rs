//! What a restored server gets at an OpenStack site.

use std::path::PathBuf;

use crate::Spec;

/// How servers are launched at a site, and what single ones of them get instead.
pub type Restore = crate::Restore<LaunchSpec>;

/// What a server is launched with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaunchSpec {
    /// Name or id of the flavour. Default: the smallest that has the memory, processors and disk.
    pub flavor: Option<String>,
    /// Its networks, in the order of its cards. Default: the one network that the project has.
    pub networks: Option<Vec<NetworkSpec>>,
    /// Names or ids of security groups. Default: the project's.
    pub security_groups: Option<Vec<String>>,
    /// Name of a key pair.
    pub key: Option<String>,
    /// File that is handed to the guest as user data.
    pub user_data: Option<PathBuf>,
    /// Availability zone.
    pub zone: Option<String>,
    /// Boot from a volume that is made of the image.
    pub boot_from_volume: Option<bool>,
    /// Type of that volume. Default: the cloud's.
    pub volume_type: Option<String>,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Name or id of the network.
    pub network: String,
    /// A fixed address there.
    pub address: Option<String>,
    /// Its hardware address.
    pub mac: MacChoice,
}

/// Which hardware address a card gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MacChoice {
    /// One of the cloud's choice.
    #[default]
    New,
    /// The one that the server's card had.
    Keep,
    /// This one.
    Given(String),
}

impl Spec for LaunchSpec {
    fn or(self, usual: Self) -> Self {
        Self {
            flavor: self.flavor.or(usual.flavor),
            networks: self.networks.or(usual.networks),
            security_groups: self.security_groups.or(usual.security_groups),
            key: self.key.or(usual.key),
            user_data: self.user_data.or(usual.user_data),
            zone: self.zone.or(usual.zone),
            boot_from_volume: self.boot_from_volume.or(usual.boot_from_volume),
            volume_type: self.volume_type.or(usual.volume_type),
        }
    }
}
