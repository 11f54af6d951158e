//! What each provider can do, as data: so that a policy which asks for more is refused offline, before any site is
//! opened.

use model::ImageOption;

use crate::{memory, openstack, qemu};

/// What sites of a provider can do with images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// What can be asked of an image.
    pub images: &'static [ImageOption],
    /// Whether images can be copied there by the provider.
    pub relay: bool,
}

/// The capabilities of a provider by its word in the configuration; none: there is no such provider.
pub fn capabilities(kind: &str) -> Option<Capabilities> {
    match kind {
        "qemu" => Some(Capabilities { images: qemu::IMAGE_OPTIONS, relay: false }),
        "openstack" => Some(Capabilities { images: openstack::IMAGE_OPTIONS, relay: true }),
        "memory" => Some(Capabilities { images: memory::IMAGE_OPTIONS, relay: true }),
        _ => None,
    }
}
