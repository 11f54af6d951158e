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

/// What can be asked of images at sites of kind `aws`. It stands here because that provider is a crate of its own, and a
/// policy is checked without it.
pub const AWS_IMAGE_OPTIONS: &[ImageOption] = &[
    ImageOption::Name,
    ImageOption::Tags,
    ImageOption::Share,
    ImageOption::Protected,
    ImageOption::Immutability,
    ImageOption::Encryption,
    ImageOption::HideOlder,
];

/// What can be asked of images at sites of kind `azure`; here for the same reason. Names are Azure's ids, which
/// nobody changes; its locks belong to another provider.
pub const AZURE_IMAGE_OPTIONS: &[ImageOption] =
    &[ImageOption::Tags, ImageOption::Immutability, ImageOption::Encryption, ImageOption::Gallery];

/// The capabilities of a provider by its word in the configuration; none: there is no such provider.
pub fn capabilities(kind: &str) -> Option<Capabilities> {
    match kind {
        "qemu" => Some(Capabilities { images: qemu::IMAGE_OPTIONS, relay: false }),
        "openstack" => Some(Capabilities { images: openstack::IMAGE_OPTIONS, relay: true }),
        "aws" => Some(Capabilities { images: AWS_IMAGE_OPTIONS, relay: true }),
        "azure" => Some(Capabilities { images: AZURE_IMAGE_OPTIONS, relay: true }),
        "memory" => Some(Capabilities { images: memory::IMAGE_OPTIONS, relay: true }),
        _ => None,
    }
}
