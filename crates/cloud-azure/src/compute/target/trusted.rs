//! Trusted Launch: secure boot and a TPM for a machine that is launched.
//!
//! Every image here is made of plain uploads. Azure makes no disk of this security type of one, nor of a copy (its answer: "Security Type
//! 'TrustedLaunch' is not supported for CreateOption 'Copy'", Azure/azure-cli#22561; `UploadPreparedSecure` takes a guest
//! state that no other cloud has), and attaches no disk to a machine of another security type than its own. What it documents for
//! machines made of such disks is to upgrade one that exists: it is deallocated, its security profile is set, and it is started (Microsoft
//! Learn: "Enable Trusted launch on existing Azure Gen2 VMs"). Azure gives its disk a guest state then, with Microsoft's
//! keys and an empty TPM. So such a machine is on twice, the first time without either, until its deallocation has ended it.
//!
//! Until then it is scratch, and the call that secures it makes it what it is to be: what a dead process leaves behind is either
//! secured or swept, and the same token goes on with it. What it said meanwhile proves nothing, and Azure does not document
//! whether the log of its console goes on where it was or begins anew: what was in it is noted by the same call.

use model::{Error, Firmware, Kind, RestorePoint, Result, Tags, tag};
use serde_json::{Value, json};

use super::super::arm::What;
use super::super::http::Client;
use super::super::marks;
use super::instance;

const TYPE: &str = "TrustedLaunch";

/// The security profile of a machine that boots as the point's server did. None: a standard one.
pub(super) fn profile(point: &RestorePoint) -> Option<Value> {
    let server = &point.server;
    match (&point.machine.firmware, point.machine.tpm) {
        (Firmware::Uefi { secure_boot, .. }, tpm) if *secure_boot || tpm => {
            if tpm {
                tracing::warn!(%server, "its TPM is a new one: what the old one keeps the key of has to be opened otherwise");
            }
            // Azure's default is a TPM, and it costs nothing; points of earlier versions do not tell of theirs
            let settings = json!({ "secureBootEnabled": secure_boot, "vTpmEnabled": true });
            Some(json!({ "securityType": TYPE, "uefiSettings": settings }))
        }
        (Firmware::Bios, true) => {
            tracing::warn!(%server, "it gets no TPM: Azure has none for what boots by BIOS");
            None
        }
        _ => None,
    }
}

/// The tags of a machine that is to be secured yet.
pub(super) fn unsecured(tags: &Tags) -> Tags {
    let scratch = (tag::ROLE.to_owned(), "scratch".to_owned());
    tags.iter().map(|(key, value)| (key.clone(), value.clone())).chain([scratch]).collect()
}

/// Makes a machine what the profile says and gives it its tags, from wherever an earlier attempt has left it. It runs then.
pub(super) async fn secure(client: &Client, name: &str, profile: &Value, tags: &Tags) -> Result<()> {
    let found = client.find(What::Machine, name).await?.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("cannot secure virtual machine {name}")).because("it does not exist")
    })?;
    let mut state = power(client, name).await?;
    if found.text("/securityProfile/securityType") != Some(TYPE) || found.tags.get(tag::ROLE) != tags.get(tag::ROLE) {
        if state != "deallocated" {
            client.act(What::Machine, name, "deallocate", &Value::Null).await?;
            state = "deallocated".to_owned();
        }
        let mut tags = tags.clone();
        tags.insert(marks::SAID.to_owned(), said(&instance::log(client, name).await?));
        let body = json!({ "tags": tags, "properties": { "securityProfile": profile } });
        client.update(What::Machine, name, &body).await.map_err(|error| match error.kind() {
            Kind::Invalid => error.hint("give it a `size` that takes Trusted Launch in the site's `restore`"),
            _ => error,
        })?;
    }
    if state != "running" {
        client.act(What::Machine, name, "start", &Value::Null).await?;
    }
    Ok(())
}

/// What tells a log that goes on from another one.
fn said(log: &str) -> String {
    format!("{} {}", log.len(), &blake3::hash(log.as_bytes()).to_hex()[..16])
}

/// What is in a log behind that which was said before.
pub(super) fn since(before: Option<&String>, log: String) -> String {
    let len = before.and_then(|before| before.split_once(' ')?.0.parse().ok());
    match len.and_then(|len| log.split_at_checked(len)) {
        Some((first, rest)) if before == Some(&said(first)) => rest.to_owned(),
        _ => log,
    }
}

/// `running`, `deallocated` and so on.
async fn power(client: &Client, name: &str) -> Result<String> {
    let view = client.instance_view(name).await?;
    let statuses = view.get("statuses").and_then(Value::as_array).into_iter().flatten();
    let mut codes = statuses.filter_map(|status| status.get("code")?.as_str()?.strip_prefix("PowerState/"));
    Ok(codes.next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_before_is_left_out_of_a_log_that_goes_on() {
        let before = said("booted\nlogin: ");
        for (log, expected) in [
            ("booted\nlogin: ", ""),
            ("booted\nlogin: Security Violation", "Security Violation"),
            ("Security Violation: access denied", "Security Violation: access denied"),
            ("booted\n", "booted\n"),
            ("", ""),
        ] {
            assert_eq!(since(Some(&before), log.to_owned()), expected);
        }
        assert_eq!(since(None, "all".to_owned()), "all");
        assert_eq!(since(Some(&said("")), "all".to_owned()), "all");
    }
}
