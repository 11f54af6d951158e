//! What can be changed about an image: who may launch it, its description, deprecation, protection.

use std::collections::BTreeSet;

use super::find::Cx;
use super::images::{device, protection};
use super::params::Params;
use super::xml::{Xml, list, node, text};
use crate::clock::later;
use crate::error::{Answer, ApiError};
use crate::world::resource::Image;

/// Who is added to and removed from the list of those that something is shared with: both forms of the API.
pub(crate) struct Sharing {
    add: BTreeSet<String>,
    remove: BTreeSet<String>,
}

impl Sharing {
    /// Reads the nested form (`LaunchPermission.Add.1.UserId`) and the flat one (`OperationType`, `UserId.1`).
    pub(crate) fn read(params: &Params, nested: &str) -> Answer<Self> {
        let whom = |list: &str| -> Answer<BTreeSet<String>> {
            let mut out = BTreeSet::new();
            for one in params.below(nested).structs(list) {
                out.extend(one.get("UserId"));
                out.extend(one.get("Group"));
            }
            Ok(out)
        };
        let (mut add, mut remove) = (whom("Add")?, whom("Remove")?);
        let mut flat: BTreeSet<String> = params.list("UserId").into_iter().collect();
        flat.extend(params.list("UserGroup"));
        match params.word("OperationType", &["add", "remove"])?.as_deref() {
            Some("remove") => remove.append(&mut flat),
            Some(_) => add.append(&mut flat),
            None if !flat.is_empty() => return Err(ApiError::missing("OperationType")),
            None => {}
        }
        for who in add.iter().chain(&remove) {
            let account = who.len() == 12 && who.bytes().all(|byte| byte.is_ascii_digit());
            if !account && who != "all" {
                let message = format!("Invalid user id: \"{who}\"");
                return Err(ApiError::refuse("InvalidAMIAttributeItemValue", message));
            }
        }
        Ok(Self { add, remove })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    pub(crate) fn apply(self, shared: &mut BTreeSet<String>) {
        shared.extend(self.add);
        shared.retain(|who| !self.remove.contains(who));
    }
}

/// Those that something is shared with, as described.
pub(crate) fn permissions(name: &'static str, shared: &BTreeSet<String>) -> Xml {
    list(name, shared.iter().map(|who| vec![text(if who == "all" { "group" } else { "userId" }, who)]))
}

pub(crate) fn modify(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let id = params.need("ImageId")?;
    let attribute = params.word("Attribute", &["description", "launchPermission", "imdsSupport"])?;
    let sharing = Sharing::read(params, "LaunchPermission")?;
    let mut description = params.below("Description").get("Value");
    let mut imds = params.below("ImdsSupport").word("Value", &["v2.0"])?;
    match (attribute.as_deref(), params.get("Value")) {
        (Some("description"), Some(value)) => description = Some(value),
        (Some("imdsSupport"), Some(value)) => imds = Some(value),
        _ => {}
    }
    params.done()?;
    if sharing.is_empty() && description.is_none() && imds.is_none() {
        return Err(ApiError::refuse("InvalidParameterCombination", "No attributes specified."));
    }
    cx.sim.change(|world| {
        let image = cx.own_image(world, &id)?;
        let default_key = super::keys::default(&image.base.account, &image.base.region);
        if !sharing.is_empty() && image.mappings.iter().any(|it| it.key.as_ref() == Some(&default_key)) {
            let message = "Images with EBS volumes that are encrypted with the default key cannot be shared";
            return Err(ApiError::refuse("OperationNotPermitted", message));
        }
        sharing.apply(&mut image.shared);
        image.description = description.or(image.description.take());
        image.imds = imds.or(image.imds.take());
        Ok(())
    })?;
    Ok(vec![text("return", true)])
}

pub(crate) fn describe(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let id = params.need("ImageId")?;
    let attribute = params.need("Attribute")?;
    params.done()?;
    let xml = cx.sim.change(|world| {
        let now = world.now();
        let image: &Image = cx.own_image(world, &id)?;
        let value =
            |name, value: Option<String>| node(name, value.into_iter().map(|value| text("value", value)).collect());
        Ok(match attribute.as_str() {
            "launchPermission" => permissions("launchPermission", &image.shared),
            "description" => value("description", image.description.clone()),
            "bootMode" => value("bootMode", image.boot_mode.clone()),
            "tpmSupport" => value("tpmSupport", image.tpm.clone()),
            "uefiData" => value("uefiData", image.uefi_data.clone()),
            "imdsSupport" => value("imdsSupport", image.imds.clone()),
            "sriovNetSupport" => value("sriovNetSupport", image.sriov.then(|| "simple".to_owned())),
            "deregistrationProtection" => value("deregistrationProtection", Some(protection(image, now).to_owned())),
            "blockDeviceMapping" => list("blockDeviceMapping", image.mappings.iter().map(device)),
            other => return Err(ApiError::value("attribute", other)),
        })
    })?;
    Ok(vec![text("imageId", id), xml])
}

fn change(cx: &Cx<'_>, id: &str, edit: impl FnOnce(&mut Image, jiff::Timestamp)) -> Answer<()> {
    cx.sim.change(|world| {
        let now = world.now();
        edit(cx.own_image(world, id)?, now);
        Ok(())
    })
}

pub(crate) fn deprecate(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let id = params.need("ImageId")?;
    let at = params.instant("DeprecateAt")?.ok_or_else(|| ApiError::missing("DeprecateAt"))?;
    params.done()?;
    let now = cx.sim.now();
    if at < now || at > later(now, 10.0 * 365.25 * 86_400.0) {
        let message = "DeprecateAt must be in the future, and at most 10 years away";
        return Err(ApiError::refuse("InvalidParameterValue", message));
    }
    // to the minute, as the provider rounds it
    let at = at.round(jiff::Unit::Minute).unwrap_or(at);
    change(cx, &id, |image, _| image.deprecated = Some(at))?;
    Ok(vec![text("return", true)])
}

pub(crate) fn undeprecate(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let id = params.need("ImageId")?;
    params.done()?;
    change(cx, &id, |image, _| image.deprecated = None)?;
    Ok(vec![text("return", true)])
}

pub(crate) fn protect(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let id = params.need("ImageId")?;
    let cooldown = params.flag("WithCooldown")?.unwrap_or(false);
    params.done()?;
    change(cx, &id, |image, _| (image.protected, image.cooldown) = (true, cooldown))?;
    Ok(vec![text("return", if cooldown { "enabled-with-cooldown" } else { "enabled-without-cooldown" })])
}

pub(crate) fn unprotect(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let id = params.need("ImageId")?;
    params.done()?;
    change(cx, &id, |image, now| {
        image.protected = false;
        image.protected_until = image.cooldown.then(|| later(now, 86_400.0));
    })?;
    Ok(vec![text("return", "disabled")])
}
