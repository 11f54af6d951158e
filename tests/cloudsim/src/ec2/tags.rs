//! Tags: in create calls, afterwards, and described. A change made afterwards takes a while to be seen.

use super::filter;
use super::find::Cx;
use super::page;
use super::params::Params;
use super::xml::{Xml, list, text};
use crate::clock::later;
use crate::error::{Answer, ApiError};
use crate::world::resource::Tags;

/// Tags of a create call for one type of resource; `allowed` are the types that the call can tag.
pub(crate) fn specified(params: &Params, allowed: &[&str], wanted: &str) -> Answer<Tags> {
    let mut tags = Tags::new();
    for one in params.structs("TagSpecification") {
        let kind = one.need("ResourceType")?;
        if !allowed.contains(&kind.as_str()) {
            let message = format!("'{kind}' is not a valid taggable resource type for this operation.");
            return Err(ApiError::refuse("InvalidParameterValue", message));
        }
        let given = pairs(&one)?;
        if kind == wanted {
            tags.extend(given);
        }
    }
    Ok(tags)
}

fn pairs(params: &Params) -> Answer<Tags> {
    let mut tags = Tags::new();
    for tag in params.structs("Tag") {
        let key = tag.need("Key")?;
        let value = tag.get("Value").unwrap_or_default();
        if key.starts_with("aws:") {
            let message = "Tag keys starting with 'aws:' are reserved for internal use";
            return Err(ApiError::refuse("InvalidParameterValue", message));
        }
        if key.chars().count() > 127 || value.chars().count() > 255 {
            return Err(ApiError::refuse("InvalidParameterValue", "Tag keys have at most 127 characters, values 255"));
        }
        if tags.insert(key.clone(), value).is_some() {
            let message = format!("Duplicate tag key '{key}' specified.");
            return Err(ApiError::refuse("InvalidParameterValue", message));
        }
    }
    if tags.len() > 50 {
        return Err(ApiError::refuse("TagLimitExceeded", "You have reached the maximum number of tags: 50"));
    }
    Ok(tags)
}

/// A resource's tags in its description.
pub(crate) fn set(tags: &Tags) -> Xml {
    list("tagSet", tags.iter().map(|(key, value)| vec![text("key", key), text("value", value)]))
}

/// Changes the tags of resources: all of them, or none.
fn change(cx: &Cx<'_>, ids: &[String], edit: impl Fn(&mut Tags)) -> Answer<()> {
    cx.sim.change(|world| {
        let now = world.now();
        let seen = later(now, world.settings.weather.tags_seconds);
        for id in ids {
            let found = world.find(id).filter(|base| cx.owns(base, now));
            let Some(base) = found else {
                let code = match id.split('-').next() {
                    Some("snap") => "InvalidSnapshot.NotFound",
                    Some("ami") => "InvalidAMIID.NotFound",
                    Some("vol") => "InvalidVolume.NotFound",
                    Some("i") => "InvalidInstanceID.NotFound",
                    _ => "InvalidID",
                };
                return Err(ApiError::refuse(code, format!("The ID '{id}' is not valid")));
            };
            let mut after = base.tags.clone();
            edit(&mut after);
            if after.len() > 50 {
                return Err(ApiError::refuse("TagLimitExceeded", "You have reached the maximum number of tags: 50"));
            }
        }
        for id in ids {
            if let Some(base) = world.find(id) {
                base.tags_before = base.tags(now).clone();
                base.tags_visible = seen;
                edit(&mut base.tags);
            }
        }
        Ok(())
    })
}

pub(crate) fn create(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let (ids, tags) = (params.list("ResourceId"), pairs(params)?);
    params.done()?;
    if ids.is_empty() || tags.is_empty() {
        return Err(ApiError::missing(if ids.is_empty() { "resourceIdSet" } else { "tagSet" }));
    }
    change(cx, &ids, |all| all.extend(tags.clone()))?;
    Ok(vec![text("return", true)])
}

pub(crate) fn delete(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let ids = params.list("ResourceId");
    let mut wanted = Vec::new();
    for tag in params.structs("Tag") {
        wanted.push((tag.need("Key")?, tag.get("Value")));
    }
    params.done()?;
    change(cx, &ids, |all| {
        if wanted.is_empty() {
            all.clear();
        }
        for (key, value) in &wanted {
            if value.as_ref().is_none_or(|value| all.get(key) == Some(value)) {
                all.remove(key);
            }
        }
    })?;
    Ok(vec![text("return", true)])
}

pub(crate) fn describe(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let filters = filter::read(params, &["key", "value", "resource-id", "resource-type"])?;
    let page = page::read(params, "DescribeTags", (5, 1000), false)?;
    params.done()?;
    let mut items = Vec::new();
    cx.sim.with(|world| {
        let now = world.now();
        for (kind, base) in world.bases().filter(|(_, base)| cx.owns(base, now)) {
            for (key, value) in base.tags(now) {
                let fields = vec![
                    ("key", key.clone()),
                    ("value", value.clone()),
                    ("resource-id", base.id.clone()),
                    ("resource-type", kind.to_owned()),
                ];
                let alone = Tags::from([(key.clone(), value.clone())]);
                if filter::all_fit(&filters, &fields, &alone) {
                    let xml = vec![
                        text("key", key),
                        text("resourceId", &base.id),
                        text("resourceType", kind),
                        text("value", value),
                    ];
                    items.push((format!("{} {key}", base.id), xml));
                }
            }
        }
    });
    Ok(page.of(cx, "tagSet", items))
}
