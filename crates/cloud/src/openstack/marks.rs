//! How what we make is marked at each service, in the call that makes it: a mark that comes later is one that a crash
//! leaves out.
//!
//! Glance takes our tags as properties, Nova and Cinder as metadata. Neutron takes tags only after the fact, so there
//! they stand in the description.

use std::collections::BTreeMap;

use model::{Role, Tags, Token, tag};
use serde_json::Value;

/// The Glance tag of everything that is ours, so that a listing has nothing else.
pub(super) const OURS: &str = "replicate";
/// The property of a registered image that carries its restore point; long ones go on in `replicate:point-1` and so on.
pub(super) const POINT: &str = "replicate:point-0";
/// The property of an image that names its disk.
pub(super) const DISK: &str = "replicate:disk";
/// The property of an image that numbers the attempt which it is.
pub(super) const ATTEMPT: &str = "replicate:attempt";
/// The property of a disk's image that names the image of the boot disk, which carries the restore point.
pub(super) const OF: &str = "replicate:of";
/// The property of an image that holds the tags which a policy asked for; each is a property of its own too.
pub(super) const OWN_TAGS: &str = "replicate:own-tags";
/// The property of a copy that tells what brings its bytes.
pub(super) const BY: &str = "replicate:by";
/// The property of a registered image that lists its disks' images.
pub(super) const DISKS: &str = "replicate:disks";
/// What a thing of a capture is for; nothing else has this tag.
pub(super) const PART: &str = "replicate:part";
/// What all our tags begin with.
const PREFIX: &str = "replicate:";
/// The most that Neutron takes as a description is 255; a number may stand behind ours.
const DESCRIPTION: usize = 240;
/// The keys in a description, the most needed first.
const DESCRIBED: [&str; 6] = [tag::OWNER, tag::RUN, tag::STEP, tag::ROLE, tag::SERVER, tag::POLICY];

/// Our tags among properties or metadata. None: the thing is not ours.
pub(super) fn tags_in<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Option<(Role, Tags)> {
    let known = [tag::OWNER, tag::POLICY, tag::SERVER, tag::POINT, tag::RUN, tag::STEP, tag::ROLE];
    let ours = pairs.filter(|(key, _)| known.contains(key));
    let tags: Tags = ours.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    tags.contains_key(tag::OWNER).then_some(())?;
    let role = match tags.get(tag::ROLE)?.as_str() {
        "replica" => Role::Replica,
        "scratch" => Role::Scratch,
        _ => return None,
    };
    Some((role, tags))
}

/// Our tags among the properties of an image.
pub(super) fn of_properties(properties: &BTreeMap<String, Value>) -> Option<(Role, Tags)> {
    tags_in(properties.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))))
}

/// Our tags among metadata.
pub(super) fn of_metadata(metadata: &BTreeMap<String, String>) -> Option<(Role, Tags)> {
    tags_in(metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())))
}

/// The description of something at Neutron: `replicate owner=a run=b step=c role=scratch server=d`. What does not fit
/// is left out; what a sweep needs stands first.
pub(super) fn description(token: &Token, role: Role) -> String {
    let tags = token.tags(role);
    let mut text = OURS.to_owned();
    for key in DESCRIBED {
        let Some(value) = tags.get(key) else { continue };
        let word = format!(" {}={value}", key.trim_start_matches(PREFIX));
        if text.len() + word.len() <= DESCRIPTION {
            text.push_str(&word);
        }
    }
    text
}

/// The tags in a description.
pub(super) fn of_description(text: &str) -> Option<(Role, Tags)> {
    let words = text.strip_prefix(OURS)?.split(' ').filter_map(|word| word.split_once('='));
    let mut pairs: Vec<(String, String)> =
        words.map(|(key, value)| (format!("{PREFIX}{key}"), value.to_owned())).collect();
    // the point of a run has the run's text
    let run = pairs.iter().find(|(key, _)| key == tag::RUN).map(|(_, run)| run.clone());
    pairs.extend(run.map(|run| (tag::POINT.to_owned(), run)));
    tags_in(pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())))
}

#[cfg(test)]
mod tests {
    use model::{OwnerId, PolicyName, RunId, ServerName};

    use super::*;

    fn token(server: &str) -> Token {
        Token {
            owner: OwnerId::new("me").unwrap(),
            policy: Some(PolicyName::new("web").unwrap()),
            server: ServerName::new(server).unwrap(),
            run: RunId::new("20261122T030000Z-7f3a9c21").unwrap(),
            step: "drill:launch".to_owned(),
        }
    }

    #[test]
    fn a_description_gives_the_tags_back() {
        let token = token("web-1");
        let (role, tags) = of_description(&description(&token, Role::Scratch)).unwrap();
        assert_eq!((role, tags), (Role::Scratch, token.tags(Role::Scratch)));
        assert_eq!(of_description("replicated by hand"), None);
        assert_eq!(of_description("a description"), None);
    }

    #[test]
    fn a_long_name_costs_the_name_and_not_the_role() {
        let mut token = token(&"w".repeat(128));
        token.owner = OwnerId::new("o".repeat(128)).unwrap();
        let text = description(&token, Role::Replica);
        assert!(text.len() <= DESCRIPTION, "{}", text.len());
        let (role, tags) = of_description(&text).unwrap();
        assert_eq!((role, tags[tag::RUN].as_str()), (Role::Replica, token.run.as_str()));
        assert!(!tags.contains_key(tag::SERVER));
    }

    #[test]
    fn what_others_made_is_not_ours() {
        let metadata = BTreeMap::from([("replicate:role".to_owned(), "scratch".to_owned())]);
        assert_eq!(of_metadata(&metadata), None);
    }
}
