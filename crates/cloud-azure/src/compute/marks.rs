//! How what we make is called and marked. Names are made of the token, so that the same token finds the same thing; the
//! tags stand in the create call, since a mark that comes later is one that a crash leaves out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::{DiskName, Error, Firmware, Kind, RestorePoint, Result, Role, Tags, Token, tag};

/// What a thing is for, beside its role.
pub(super) const PART: &str = "replicate:part";
/// The disk that a snapshot or managed disk is of.
pub(super) const DISK: &str = "replicate:disk";
/// The name under which everything of an instance is found.
pub(super) const OF: &str = "replicate:of";
/// What a machine's console had said before the machine was secured.
pub(super) const SAID: &str = "replicate:said";
/// Where an image is published: of its boot disk's snapshot.
pub(super) const VERSION: &str = "replicate:version";
/// Our part of a point's text; the next parts are `replicate:point-1` and so on.
const POINT: &str = "replicate:point-";
/// The tag that a registered image has.
pub(super) const REGISTERED: &str = "replicate:point-0";
/// The longest value of a tag, and how many tags a resource takes.
const VALUE: usize = 256;
pub(super) const TAGS: usize = 50;
/// What a point is bounded to when it is read.
const LARGEST: usize = 4 << 20;

/// The name of what a token makes: `rpl-` and 24 hexadecimal digits.
pub(super) fn name(token: &Token) -> String {
    let mut hash = blake3::Hasher::new();
    for part in [token.owner.as_str(), token.server.as_str(), token.run.as_str(), &token.step] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    format!("rpl-{}", &hash.finalize().to_hex()[..24])
}

/// A short word for a disk, for names: Azure's have fewer characters than ours.
pub(super) fn disk_word(disk: &DiskName) -> String {
    blake3::hash(disk.as_str().as_bytes()).to_hex()[..8].to_owned()
}

/// Our tags among a resource's. None: it is not ours.
pub(super) fn ours(tags: &Tags) -> Option<(Role, Tags)> {
    let known = [tag::OWNER, tag::POLICY, tag::SERVER, tag::POINT, tag::RUN, tag::STEP, tag::ROLE];
    if !tags.contains_key(tag::OWNER) {
        return None;
    }
    let role = match tags.get(tag::ROLE)?.as_str() {
        "replica" => Role::Replica,
        "scratch" => Role::Scratch,
        _ => return None,
    };
    let own = |key: &&String| known.contains(&key.as_str()) || !key.starts_with("replicate:");
    Some((role, tags.iter().filter(|(key, _)| own(key)).map(|(key, value)| (key.clone(), value.clone())).collect()))
}

/// The tags of something that a token makes.
pub(super) fn tags(token: &Token, role: Role, more: &[(&str, &str)]) -> Tags {
    let mut tags = token.tags(role);
    tags.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    tags
}

/// The tags that carry a point. Where the variables of its firmware do not fit they are left out, and that is told:
/// Azure gives no machine the variables of another one.
pub(super) fn of_point(point: &RestorePoint, taken: usize) -> Result<Tags> {
    let room = TAGS.saturating_sub(taken);
    let tags = written(point)?;
    if tags.len() <= room {
        return Ok(tags);
    }
    let mut slim = point.clone();
    if let Firmware::Uefi { variables, .. } = &mut slim.machine.firmware
        && variables.take().is_some()
    {
        let tags = written(&slim)?;
        if tags.len() <= room {
            tracing::warn!(point = %point.id, "the UEFI variables do not fit into the image's tags and are left out");
            return Ok(tags);
        }
    }
    Err(Error::new(Kind::Invalid, format!("cannot put point {} into an image", point.id))
        .because(format!("it takes {} tags, and {room} are left of {TAGS}", tags.len()))
        .hint("take tags away from the policy or from the server"))
}

fn written(point: &RestorePoint) -> Result<Tags> {
    let wrong = |why: String| Error::new(Kind::Permanent, format!("cannot write point {}", point.id)).because(why);
    let text = serde_json::to_vec(point).map_err(|error| wrong(error.to_string()))?;
    let packed = zstd::bulk::compress(&text, 19).map_err(|error| wrong(error.to_string()))?;
    let text = STANDARD.encode(packed);
    let parts = text.as_bytes().chunks(VALUE).enumerate();
    Ok(parts.map(|(n, part)| (format!("{POINT}{n}"), String::from_utf8_lossy(part).into_owned())).collect())
}

/// The point that an image's tags carry, if they carry one.
pub(super) fn point_in(name: &str, tags: &Tags) -> Option<Result<RestorePoint>> {
    tags.get(REGISTERED)?;
    let text: String = (0..TAGS).map_while(|n| tags.get(&format!("{POINT}{n}"))).map(String::as_str).collect();
    let read = || -> std::result::Result<RestorePoint, Box<dyn std::error::Error + Send + Sync>> {
        let packed = STANDARD.decode(text)?;
        Ok(serde_json::from_slice(&zstd::bulk::decompress(&packed, LARGEST)?)?)
    };
    Some(read().map_err(|why| {
        Error::new(Kind::Damaged, format!("cannot read the restore point of image {name}")).because(why)
    }))
}

/// Refuses tags of a policy that Azure does not take.
pub(super) fn fits(tags: &Tags) -> Result<()> {
    for (key, value) in tags {
        let wrong = |why: &str| {
            Err(Error::new(Kind::Invalid, format!("cannot tag an image with `{key}`"))
                .because(why.to_owned())
                .hint("change the tag in the policy"))
        };
        if key.len() > 512 || key.contains(['<', '>', '%', '&', '\\', '?', '/']) {
            return wrong("Azure takes no tag whose name has one of <>%&\\?/ or more than 512 characters");
        }
        if value.len() > VALUE {
            return wrong("Azure takes no tag whose value has more than 256 characters");
        }
        if key.to_lowercase().starts_with("replicate:") {
            return wrong("tags of that name are the program's own");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use model::{OwnerId, RunId, ServerName};

    use super::*;

    fn token(step: &str) -> Token {
        Token {
            owner: OwnerId::new("me").unwrap(),
            policy: None,
            server: ServerName::new("web-1").unwrap(),
            run: RunId::new("20261122T030000Z-7f3a9c21").unwrap(),
            step: step.to_owned(),
        }
    }

    #[test]
    fn a_name_is_the_tokens_alone() {
        assert_eq!(name(&token("a")), name(&token("a")));
        assert_ne!(name(&token("a")), name(&token("b")));
    }

    #[test]
    fn the_tags_give_role_and_token_back() {
        let tags = tags(&token("a"), Role::Scratch, &[(PART, "upload")]);
        assert_eq!(ours(&tags), Some((Role::Scratch, token("a").tags(Role::Scratch))));
        assert_eq!(ours(&Tags::from([(tag::ROLE.to_owned(), "scratch".to_owned())])), None);
    }

    #[test]
    fn tags_that_azure_refuses_are_refused_before() {
        let one = |key: &str, value: &str| fits(&Tags::from([(key.to_owned(), value.to_owned())]));
        assert!(one("team", "recovery").is_ok());
        for (key, value) in [("a/b", "x"), ("Replicate:owner", "x"), ("a", &"x".repeat(257))] {
            assert!(one(key, value).is_err(), "{key}");
        }
    }
}
