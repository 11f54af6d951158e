//! The services that are spoken to, each with its paths and names in one file: clouds that renamed a service (Huawei's
//! IMS and EVS are Glance v2 and Cinder) differ here and nowhere else.

pub(super) mod cinder;
pub(super) mod glance;
pub(super) mod neutron;
pub(super) mod nova;
mod pages;

/// A service of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// Glance: images.
    Image,
    /// Nova: servers.
    Compute,
    /// Neutron: networks and ports.
    Network,
    /// Cinder: volumes and their snapshots.
    Volume,
}

/// The microversions of a service that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Microversions {
    /// Word in the header `OpenStack-API-Version`.
    pub name: &'static str,
    /// The oldest that will do.
    pub needed: (u32, u32),
    /// The newest that this client was written for.
    pub wanted: (u32, u32),
}

impl Service {
    pub(super) const ALL: [Service; 4] = [Service::Image, Service::Compute, Service::Network, Service::Volume];

    /// Its types in catalogues, the usual one first.
    pub(super) fn types(self) -> &'static [&'static str] {
        match self {
            Service::Image => &["image"],
            Service::Compute => &["compute"],
            Service::Network => &["network"],
            Service::Volume => &["volumev3", "block-storage", "block-store"],
        }
    }

    /// Keys of `clouds.yaml` that replace the catalogue's address.
    pub(super) fn override_keys(self) -> &'static [&'static str] {
        match self {
            Service::Image => &["image_endpoint_override"],
            Service::Compute => &["compute_endpoint_override"],
            Service::Network => &["network_endpoint_override"],
            Service::Volume => {
                &["block_storage_endpoint_override", "volumev3_endpoint_override", "volume_endpoint_override"]
            }
        }
    }

    /// The version that is spoken: how its id begins, and its path where the service does not tell.
    pub(super) fn version(self) -> (&'static str, &'static str) {
        match self {
            Service::Image => ("v2.", "v2"),
            Service::Compute => ("v2.1", "v2.1"),
            Service::Network => ("v2.0", "v2.0"),
            Service::Volume => ("v3.", "v3"),
        }
    }

    pub(super) fn microversions(self) -> Option<Microversions> {
        match self {
            Service::Image | Service::Network => None,
            // 2.47: a server has its flavour in it, and createImage tells the image's id; 2.67: the type of a volume that a server boots from
            Service::Compute => Some(Microversions { name: "compute", needed: (2, 47), wanted: (2, 79) }),
            // 3.14: group snapshots; 3.68: what volumes show is stable up to here
            Service::Volume => Some(Microversions { name: "volume", needed: (3, 0), wanted: (3, 68) }),
        }
    }

    /// Its name in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Service::Image => "Glance",
            Service::Compute => "Nova",
            Service::Network => "Neutron",
            Service::Volume => "Cinder",
        }
    }
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
