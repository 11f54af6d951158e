//! How what we make is tagged, and how an image carries its restore point.
//!
//! A point is JSON, packed with zstd and base64, in parts of what one tag holds: 34 tags of the image, and as many of
//! its boot disk's snapshot if that is not enough. Values of tags have at most 255 characters, a resource 50 tags.

use std::collections::BTreeMap;

use aws_sdk_ec2::types as ec2;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::{Error, Kind, RestorePoint, Result, Role, Tags, tag};

/// The tag of a snapshot that names its disk.
pub(super) const DISK: &str = "replicate:disk";
/// The tag of a snapshot that tells the disk's size in bytes: a volume has whole GiB.
pub(super) const SIZE: &str = "replicate:size";
/// The tag of a snapshot that names the attempts to write one disk: the same token has the same.
pub(super) const MARK: &str = "replicate:mark";
/// The tag of a snapshot that names the one it was written over; EC2 tells it nowhere.
pub(super) const PARENT: &str = "replicate:parent";
/// The tag of a copied snapshot that names the region and the image it came with.
pub(super) const COPY: &str = "replicate:copy";
/// The tag of an image that tells how many parts its point has.
const PARTS: &str = "replicate:point-parts";
/// The tag of a snapshot of a capture that was committed: what the next one is compared with.
pub(super) const BASE: &str = "replicate:base";
/// The tag of a capture's snapshots that tells how many they are and of which attempt.
pub(super) const PINNED: &str = "replicate:pinned";
/// The tag of a capture's snapshots that tells the consistency they were proved to have; without it, that of a crash.
pub(super) const LEVEL: &str = "replicate:level";
/// The tag of an image that lists the policy's own tags, which begin with none of ours.
const PART_KEY: &str = "replicate:point-";
/// Characters in one tag.
const PART: usize = 250;
/// Parts in the tags of one resource.
const AT_IMAGE: usize = 34;
/// The most that a point may be once it is unpacked; more is nobody's point.
const LARGEST: usize = 4 << 20;

/// Our tags among all tags. None: the thing is not ours.
pub(super) fn ours(tags: &Tags) -> Option<(Role, Tags)> {
    let known = [tag::OWNER, tag::POLICY, tag::SERVER, tag::POINT, tag::RUN, tag::STEP, tag::ROLE];
    let found: Tags = tags.iter().filter(|(key, _)| known.contains(&key.as_str())).map(pair).collect();
    found.contains_key(tag::OWNER).then_some(())?;
    let role = match found.get(tag::ROLE)?.as_str() {
        "replica" => Role::Replica,
        "scratch" => Role::Scratch,
        _ => return None,
    };
    Some((role, found))
}

/// All tags but those that carry what only this provider needs.
pub(super) fn shown(tags: &Tags) -> Tags {
    let inner =
        |key: &str| key.starts_with(PART_KEY) || [DISK, SIZE, MARK, PARENT, COPY, BASE, PINNED, LEVEL].contains(&key);
    tags.iter().filter(|(key, _)| !inner(key)).map(pair).collect()
}

fn pair((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

/// The tags of an answer.
pub(super) fn of_ec2(tags: &[ec2::Tag]) -> Tags {
    let pairs = tags.iter().filter_map(|tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned())));
    pairs.collect()
}

/// Tags for a request.
pub(super) fn to_ec2(tags: &Tags) -> Vec<ec2::Tag> {
    tags.iter().map(|(key, value)| ec2::Tag::builder().key(key).value(value).build()).collect()
}

/// Tags for one type of resource in a create call.
pub(super) fn specification(kind: ec2::ResourceType, tags: &Tags) -> ec2::TagSpecification {
    ec2::TagSpecification::builder().resource_type(kind).set_tags(Some(to_ec2(tags))).build()
}

/// A filter of a describing call.
pub(super) fn filter(name: impl Into<String>, value: impl Into<String>) -> ec2::Filter {
    ec2::Filter::builder().name(name).values(value).build()
}

/// A filter by a tag's value, or by its mere presence.
pub(super) fn tagged(key: &str, value: Option<&str>) -> ec2::Filter {
    match value {
        Some(value) => filter(format!("tag:{key}"), value),
        None => filter("tag-key", key),
    }
}

/// The tags that carry a point: of the image, and of the snapshot of its boot disk.
pub(super) fn carry(point: &RestorePoint) -> Result<(Tags, Tags)> {
    let operation = || format!("cannot put point {} into tags", point.id);
    let failed =
        |error: Box<dyn std::error::Error + Send + Sync>| Error::new(Kind::Permanent, operation()).because(error);
    let text = serde_json::to_vec(point).map_err(|error| failed(error.into()))?;
    let packed = zstd::bulk::compress(&text, 19).map_err(|error| failed(error.into()))?;
    let packed = STANDARD.encode(packed);
    let parts: Vec<&str> = (0..packed.len()).step_by(PART).map(|at| &packed[at..packed.len().min(at + PART)]).collect();
    if parts.len() > 2 * AT_IMAGE {
        let room = 2 * AT_IMAGE * PART;
        return Err(Error::new(Kind::Invalid, operation())
            .because(format!("it has {} characters, and there is room for {room}", packed.len()))
            .hint("its UEFI variables are what is large: keep it in a vault"));
    }
    let numbered = parts.iter().enumerate().map(|(at, part)| (format!("{PART_KEY}{at}"), (*part).to_owned()));
    let all: BTreeMap<usize, (String, String)> = numbered.enumerate().collect();
    let count = all.len().to_string();
    let (mut image, mut snapshot) = (Tags::from([(PARTS.to_owned(), count)]), Tags::new());
    for (at, (key, value)) in all {
        if at < AT_IMAGE {
            image.insert(key, value)
        } else {
            snapshot.insert(key, value)
        };
    }
    Ok((image, snapshot))
}

/// Whether an image carries a point.
pub(super) fn has_point(image: &Tags) -> bool {
    image.contains_key(PARTS)
}

/// Whether the point of an image goes on in its boot disk's snapshot.
pub(super) fn goes_on(image: &Tags) -> bool {
    image.get(PARTS).and_then(|count| count.parse::<usize>().ok()).is_some_and(|count| count > AT_IMAGE)
}

/// The point that an image carries. [`Kind::Damaged`] if a part is missing or does not fit.
pub(super) fn point(id: &str, image: &Tags, snapshot: &Tags) -> Result<RestorePoint> {
    let damaged = |why: &str| {
        Error::new(Kind::Damaged, format!("cannot read the restore point of image {id}")).because(why.to_owned())
    };
    let count: usize = image.get(PARTS).and_then(|count| count.parse().ok()).ok_or_else(|| damaged("it has none"))?;
    let mut packed = String::new();
    for at in 0..count.min(2 * AT_IMAGE) {
        let key = format!("{PART_KEY}{at}");
        packed
            .push_str(image.get(&key).or(snapshot.get(&key)).ok_or_else(|| damaged(&format!("tag {key} is missing")))?);
    }
    let packed = STANDARD.decode(packed).map_err(|_| damaged("its tags are no base64"))?;
    let text = zstd::bulk::decompress(&packed, LARGEST).map_err(|_| damaged("its tags cannot be unpacked"))?;
    serde_json::from_slice(&text).map_err(|error| damaged(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn test_point(variables: usize) -> RestorePoint {
        let mut state = 7_u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'A' + (state >> 59) as u8 % 26)
        });
        serde_json::from_value(json!({
            "id": "20261122T030000Z-7f3a9c21", "server": "web-1", "taken_at": "2026-11-22T03:00:00Z",
            "consistency": "crash", "program": "replicate 0.1.0",
            "machine": {
                "arch": "x86-64", "memory": 268_435_456, "vcpus": 1, "disks": [],
                "firmware": { "kind": "uefi", "secure_boot": true, "variables": noise.take(variables).collect::<String>() },
            },
            "disks": [{ "name": "vda", "size": 4096, "root": "00".repeat(32) }],
        }))
        .unwrap()
    }

    #[test]
    fn a_point_survives_in_tags_however_long_it_is() {
        for variables in [0, 100, 5000, 12_000] {
            let given = test_point(variables);
            let (image, snapshot) = carry(&given).unwrap();
            assert!(image.len() <= AT_IMAGE + 1 && snapshot.len() <= AT_IMAGE);
            assert!(image.values().chain(snapshot.values()).all(|value| value.len() <= 255));
            assert_eq!(goes_on(&image), !snapshot.is_empty());
            assert_eq!(point("ami-1", &image, &snapshot).unwrap(), given);
        }
        assert_eq!(carry(&test_point(60_000)).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn a_point_with_a_part_missing_is_damaged() {
        let (mut image, snapshot) = carry(&test_point(3000)).unwrap();
        image.remove("replicate:point-1");
        assert_eq!(point("ami-1", &image, &snapshot).unwrap_err().kind(), Kind::Damaged);
        assert_eq!(point("ami-1", &Tags::new(), &snapshot).unwrap_err().kind(), Kind::Damaged);
    }

    #[test]
    fn what_others_made_is_not_ours() {
        assert_eq!(ours(&Tags::from([(tag::ROLE.to_owned(), "scratch".to_owned())])), None);
    }
}
