//! What a restored server gets at a site: whatever the restore point cannot know of another cloud.

use std::collections::BTreeMap;

use model::ServerName;

/// How servers are launched at a site, and what single ones of them get instead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restore {
    /// For every server.
    pub usual: LaunchSpec,
    /// For servers of these names; what is left out is as usual.
    pub servers: BTreeMap<ServerName, LaunchSpec>,
}

/// What a server is launched with. An SSH key is not among it: a machine that is made of disks as they are takes none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaunchSpec {
    /// The size: `Standard_B2s`.
    pub size: Option<String>,
    /// Id of the subnet that restored servers are joined to.
    pub subnet: Option<String>,
    /// Id of a subnet that reaches nothing: drills are joined to it, and refused without it.
    pub drill_subnet: Option<String>,
    /// Id of a network security group for the card.
    pub security_group: Option<String>,
    /// Whether the system is Windows.
    pub windows: Option<bool>,
}

impl Restore {
    /// What a server gets.
    pub fn of(&self, server: &ServerName) -> LaunchSpec {
        let (own, usual) = (self.servers.get(server).cloned().unwrap_or_default(), self.usual.clone());
        LaunchSpec {
            size: own.size.or(usual.size),
            subnet: own.subnet.or(usual.subnet),
            drill_subnet: own.drill_subnet.or(usual.drill_subnet),
            security_group: own.security_group.or(usual.security_group),
            windows: own.windows.or(usual.windows),
        }
    }
}
