//! Trusted Launch: which disks and sizes a machine of that security type takes, and the upgrade of one that exists. Of secure boot and
//! the TPM nothing is simulated but who may have them.
//!
//! That a machine is deallocated first is the provider's how-to; by which code one that is not is refused is a guess.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::arm::body;
use super::machines::{show, vm};
use super::operations;
use super::state::{Power, Resource};
use crate::error::{Answer, ApiError};
use crate::http::{Request, Response};
use crate::sim::Sim;
use crate::world::resource::Tags;

const TYPE: &str = "TrustedLaunch";

/// What is changed of a machine that exists. Its tags are all of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    #[serde(default)]
    tags: Option<Tags>,
    #[serde(default)]
    properties: Option<Properties>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Properties {
    security_profile: Profile,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Profile {
    security_type: String,
    uefi_settings: Settings,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Settings {
    secure_boot_enabled: bool,
    v_tpm_enabled: bool,
}

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::refuse("BadRequest", message)
}

fn is_trusted(security: Option<&Value>) -> bool {
    security.is_some_and(|it| it["securityType"] == TYPE)
}

/// Families that boot by BIOS alone, and those that the provider's table lists as not supported: A, M, and D of the second and
/// third version without premium storage.
fn takes(size: &str) -> bool {
    let name = size.strip_prefix("Standard_").unwrap_or(size);
    let of =
        |family: &str| name.strip_prefix(family).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let old = of("D") && !name.contains('s') && (name.ends_with("_v2") || name.ends_with("_v3"));
    !(of("A") || of("M") || old)
}

fn sized(size: &str) -> Answer<()> {
    match takes(size) {
        true => Ok(()),
        false => Err(bad(format!("The VM size '{size}' does not support the security type '{TYPE}'."))),
    }
}

/// Refuses a new machine whose security type is not that of its disk.
pub(super) fn fits(security: Option<&Value>, disk: &Resource, size: &str) -> Answer<()> {
    let wanted = is_trusted(security);
    if wanted != (disk.security.as_deref() == Some(TYPE)) {
        return Err(bad("Security type of VM is not compatible with the security type of attached OS Disk."));
    }
    if wanted { sized(size) } else { Ok(()) }
}

/// Changes tags, and makes a standard machine that is deallocated one of Trusted Launch; its disk is of that type from then on.
pub(super) fn update(sim: &Sim, id: &str, request: &Request) -> Answer<Response> {
    let wanted: Update = body(request)?;
    let (shown, location, operation) = sim.change(|world| {
        let known = vm(world, id)?.clone();
        let profile = wanted.properties.map(|it| it.security_profile);
        if let Some(profile) = &profile {
            if profile.security_type != TYPE {
                return Err(bad("Subscription is not registered for the feature UseStandardSecurityType."));
            }
            if !known.uefi {
                return Err(bad(format!("{TYPE} needs a machine of hyperVGeneration V2.")));
            }
            if known.power != Power::Deallocated {
                let message = format!("The security type of {} changes only while it is deallocated.", known.name);
                return Err(ApiError::new(409, "OperationNotAllowed", message));
            }
            sized(&known.size)?;
            if let Some(disk) = known.disks.first().and_then(|id| world.azure.resources.get_mut(&id.to_lowercase())) {
                disk.security = Some(TYPE.to_owned());
            }
        }
        if let Some(it) = world.azure.machines.get_mut(&id.to_lowercase()) {
            it.tags = wanted.tags.unwrap_or(known.tags);
            it.security = profile.map(|profile| json!(profile)).or(known.security);
        }
        let shown = show(vm(world, id)?, world);
        Ok((shown.clone(), known.location, operations::begin(world, Some(shown))))
    })?;
    Ok(Response { status: 200, ..operations::accepted(sim, request, &location, &operation, Some(shown)) })
}
