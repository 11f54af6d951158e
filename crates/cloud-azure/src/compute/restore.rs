//! What a restored server gets at an Azure site.

use cloud::Spec;

/// How servers are launched at a site, and what single ones of them get instead.
pub type Restore = cloud::Restore<LaunchSpec>;

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

impl Spec for LaunchSpec {
    fn or(self, usual: Self) -> Self {
        Self {
            size: self.size.or(usual.size),
            subnet: self.subnet.or(usual.subnet),
            drill_subnet: self.drill_subnet.or(usual.drill_subnet),
            security_group: self.security_group.or(usual.security_group),
            windows: self.windows.or(usual.windows),
        }
    }
}
