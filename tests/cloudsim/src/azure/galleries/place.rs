//! What a path below `galleries` means, and what a version may be called.

use super::super::disks::invalid;
use crate::error::Answer;

/// `[GALLERY[/images[/DEFINITION[/versions[/VERSION]]]]]` behind `galleries`.
fn parts(path: &str) -> Option<Vec<&str>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let at = parts.iter().position(|part| part.eq_ignore_ascii_case("galleries"))?;
    let behind = parts[at + 1..].to_vec();
    let words = [(1, "images"), (3, "versions")];
    let fits = words.iter().all(|(at, word)| behind.get(*at).is_none_or(|part| part.eq_ignore_ascii_case(word)));
    (fits && behind.len() <= 5).then_some(behind)
}

/// Whether a path is about any of this.
pub(in crate::azure) fn is_one(path: &str) -> bool {
    let path = path.to_lowercase();
    path.contains("/galleries/") || path.ends_with("/galleries")
}

/// The operation's id in the specifications.
pub(in crate::azure) fn name(method: &str, path: &str) -> String {
    let depth = parts(path).map_or(0, |parts| parts.len());
    match (method, depth) {
        ("GET", 0) => "Galleries_ListByResourceGroup",
        ("GET", 1) => "Galleries_Get",
        ("GET", 2) => "GalleryImages_ListByGallery",
        ("GET", 3) => "GalleryImages_Get",
        ("PUT", 3) => "GalleryImages_CreateOrUpdate",
        ("DELETE", 3) => "GalleryImages_Delete",
        ("GET", 4) => "GalleryImageVersions_ListByGalleryImage",
        ("GET", 5) => "GalleryImageVersions_Get",
        ("PUT", 5) => "GalleryImageVersions_CreateOrUpdate",
        ("PATCH", 5) => "GalleryImageVersions_Update",
        ("DELETE", 5) => "GalleryImageVersions_Delete",
        _ => "",
    }
    .to_owned()
}

/// `MAJOR.MINOR.PATCH`, each of 32 bits with its sign.
pub(super) fn check_number(name: &str) -> Answer<()> {
    let parts: Vec<&str> = name.split('.').collect();
    let fine = parts.len() == 3
        && parts.iter().all(|part| part.parse::<i32>().is_ok_and(|n| n.to_string() == **part && n >= 0));
    match fine {
        true => Ok(()),
        false => Err(invalid(format!("The version name '{name}' is not valid: it is like 1.0.0."))),
    }
}
