//! The destinations of a policy: where, how bytes come there, how images there are to look. What a destination's
//! provider cannot do is a mistake here, so that it is never found out by a run.

use std::collections::BTreeSet;

use model::{
    Destination, Gallery, ImageOption, ImageOptions, Place, SiteName, VaultName, Via, Visibility, wrong_template,
};

use super::document::{Document, below, suggestion};
use super::policy::Known;
use super::raw_policy::{RawDestination, RawGallery, RawVia, RawVisibility};
use super::value::duration;

/// Checks all of them; what is wrong is noted in `document`.
pub fn destinations(document: &mut Document, raw: Option<Vec<RawDestination>>, known: &Known) -> Vec<Destination> {
    let Some(raw) = raw else { return Vec::new() };
    if raw.is_empty() {
        document.wrong_value("/replicate", "there is no destination — name at least one: `[{ to = \"vault:main\" }]`");
    }
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    let images = raw.iter().filter(|raw| raw.to.as_deref().is_some_and(|to| !to.starts_with("vault:"))).count();
    for (index, raw) in raw.into_iter().enumerate() {
        let at = format!("/replicate/{index}");
        let Some(to) = raw.to.clone() else { continue };
        if !seen.insert(to.clone()) {
            document.wrong_value(&below(&at, "to"), format!("destination `{to}` is named twice"));
            continue;
        }
        let place = place(document, &to, known, &below(&at, "to"));
        let via = via(document, raw.via, &to, images, known, &at);
        let image = image(document, raw, &at);
        refuse(document, &image, &to, known, &at);
        refuse_other_key(document, &image, &to, known, &at);
        refuse_without_key(document, &image, &to, known, &at);
        found.extend(place.map(|place| Destination { place, via, image }));
    }
    found
}

fn place(document: &mut Document, to: &str, known: &Known, at: &str) -> Option<Place> {
    if let Some(name) = to.strip_prefix("vault:") {
        if !known.vaults.iter().any(|vault| vault == name) {
            let suggestion = suggestion(name, known.vaults.iter().map(String::as_str));
            document.wrong_value(at, format!("destination `{to}`: `{name}` is not a vault{suggestion}"));
            return None;
        }
        return VaultName::new(name).ok().map(Place::Vault);
    }
    let Some((site, _, target)) = known.sites.iter().find(|(site, ..)| site == to) else {
        let vault = known.vaults.iter().any(|vault| vault == to);
        let hint = match vault {
            true => format!(" — did you mean `vault:{to}`?"),
            false => suggestion(to, known.sites.iter().map(|(site, ..)| site.as_str())),
        };
        document.wrong_value(at, format!("destination `{to}` is not a site{hint}"));
        return None;
    };
    if !target {
        document.wrong_value(at, format!("no image can be put at `{site}` — give the site `disks`"));
    }
    SiteName::new(site.as_str()).ok().map(Place::Site)
}

/// What the destination's provider can do; none for a vault, and for a site that is wrong itself.
fn capabilities<'a>(to: &str, known: &'a Known) -> Option<(&'a str, cloud::Capabilities)> {
    let kind = known.kinds.get(to)?;
    cloud::capabilities(kind).map(|can| (kind.as_str(), can))
}

fn via(document: &mut Document, raw: Option<RawVia>, to: &str, images: usize, known: &Known, at: &str) -> Via {
    let at = below(at, "via");
    match raw {
        None | Some(RawVia::Auto) => return Via::Auto,
        Some(RawVia::Blocks) => return Via::Blocks,
        Some(RawVia::Relay) => {}
    }
    if to.starts_with("vault:") {
        document.wrong_value(&at, "a vault holds archives, and no provider copies images to it — leave `via` out");
    } else if let Some((kind, _)) = capabilities(to, known).filter(|(_, can)| !can.relay) {
        document
            .wrong_value(&at, format!("a site of kind `{kind}` copies no images from other sites — leave `via` out"));
    } else if images < 2 {
        document.wrong_value(&at, "there is no other site in `replicate` to copy from — name one, or leave `via` out");
    }
    Via::Relay
}

fn image(document: &mut Document, raw: RawDestination, at: &str) -> ImageOptions {
    let hide_older = raw.hide_older.unwrap_or(false);
    if let Some(name) = &raw.name {
        let at = below(at, "name");
        if let Some(wrong) = wrong_template(name) {
            document.wrong_value(&at, format!("the name `{}` {wrong}", name.escape_debug()));
        } else if !hide_older && !["{point}", "{time}"].iter().any(|unique| name.contains(unique)) {
            let hint = "add `{point}` or `{time}`, or let only the newest be listed with `hide-older = true`";
            document.wrong_value(&at, format!("every image would be called `{name}` — {hint}"));
        }
    }
    for (key, value) in raw.tags.iter().filter(|(key, _)| key.starts_with("replicate:") || key.is_empty()) {
        let at = below(&below(at, "tags"), key);
        document.wrong_key(&at, format!("`{key} = {value}` — tags that begin with `replicate:` are the program's own"));
    }
    let visibility = raw.visibility.map(|raw| match raw {
        RawVisibility::Private => Visibility::Private,
        RawVisibility::Shared => Visibility::Shared,
        RawVisibility::Community => Visibility::Community,
        RawVisibility::Public => Visibility::Public,
    });
    let share = words(document, raw.share, &below(at, "share"));
    if let (false, Some(other)) = (share.is_empty(), visibility.filter(|visible| *visible != Visibility::Shared)) {
        let text =
            format!("an image that is `{other}` is not shared with named ones — leave `visibility` or `share` out");
        document.wrong_value(&below(at, "visibility"), text);
    }
    let immutability = raw.immutability.as_deref().and_then(|text| {
        let at = below(at, "immutability");
        let time = duration(text).map_err(|wrong| document.wrong_value(&at, wrong)).ok()?;
        if time.is_zero() {
            document.wrong_value(&at, "an immutability of no time protects from nothing — give it some days");
        }
        Some(time)
    });
    if raw.encryption.as_deref().is_some_and(|key| key.trim().is_empty()) {
        document.wrong_value(&below(at, "encryption"), "`encryption` names no key");
    }
    ImageOptions {
        name: raw.name,
        tags: raw.tags,
        visibility,
        share,
        protected: raw.protected.unwrap_or(false),
        immutability,
        encryption: raw.encryption,
        hide_older,
        stores: words(document, raw.stores, &below(at, "stores")),
        gallery: raw.gallery.and_then(|raw| gallery(document, raw, &below(at, "gallery"))),
    }
}

fn gallery(document: &mut Document, raw: RawGallery, at: &str) -> Option<Gallery> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "_.".contains(c);
    if let Some(name) = raw.name.as_deref().filter(|name| name.is_empty() || name.len() > 80 || !name.chars().all(fine))
    {
        let text = format!("`{name}` is no gallery's name: it has letters, digits, dots and underscores, 80 at most");
        document.wrong_value(&below(at, "name"), text);
    }
    let regions = words(document, raw.regions, &below(at, "regions"));
    let shallow = raw.shallow.unwrap_or(false);
    if shallow && !regions.is_empty() {
        document.wrong_value(
            &below(at, "shallow"),
            "a shallow version is not copied to other regions — leave `shallow` or `regions` out",
        );
    }
    Some(Gallery { name: raw.name?, regions, shallow })
}

/// A list of words, none of them empty or twice.
fn words(document: &mut Document, raw: Option<Vec<String>>, at: &str) -> Vec<String> {
    let list = raw.unwrap_or_default();
    let mut seen = BTreeSet::new();
    for (index, word) in list.iter().enumerate() {
        if word.trim().is_empty() || !seen.insert(word) {
            document.wrong_value(&below(at, &index.to_string()), format!("`{word}` is empty, or named twice"));
        }
    }
    list
}

/// Refuses what the destination cannot do.
fn refuse(document: &mut Document, image: &ImageOptions, to: &str, known: &Known, at: &str) {
    let (what, can): (String, &[ImageOption]) = match (to.starts_with("vault:"), capabilities(to, known)) {
        (true, _) => ("a vault holds archives, not images, and".to_owned(), &[]),
        (false, Some((kind, can))) => (format!("a site of kind `{kind}`"), can.images),
        (false, None) => return,
    };
    for option in image.asked().into_iter().filter(|option| !can.contains(option)) {
        let key = option.key();
        document.wrong_key(&below(at, key), format!("{what} does not have `{key}` — leave it out"));
    }
}

/// Refuses a key that is not the site's: it would be found out when a server is captured already.
fn refuse_other_key(document: &mut Document, image: &ImageOptions, to: &str, known: &Known, at: &str) {
    let setting = match known.kinds.get(to).map(String::as_str) {
        Some("aws") => "kms-key",
        Some("azure") => "disk-encryption-set",
        _ => return,
    };
    let key = known.keys.get(to);
    if let (Some(asked), Err(_)) = (&image.encryption, image.encrypted_by(to, key.map(String::as_str))) {
        let has = key.map_or("names none".to_owned(), |key| format!("has `{key}`"));
        let text = format!("`{asked}` is not the key of site `{to}`, which {has} — make it the site's `{setting}`");
        document.wrong_value(&below(at, "encryption"), text);
    }
}

/// Refuses to publish without the site's key: it is one region's, and a shallow version has the provider's.
fn refuse_without_key(document: &mut Document, image: &ImageOptions, to: &str, known: &Known, at: &str) {
    let (Some(gallery), Some(_)) = (&image.gallery, known.keys.get(to)) else { return };
    let (key, why) = match gallery.regions.first() {
        Some(region) => ("regions", format!("in `{region}` it would not be encrypted with the key of site `{to}`")),
        None if gallery.shallow => {
            ("shallow", format!("a shallow version is not encrypted with the key of site `{to}`"))
        }
        None => return,
    };
    document.wrong_value(&below(&below(at, "gallery"), key), format!("{why} — leave it out"));
}
