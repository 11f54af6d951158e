//! UEFI variables: boot entries and the keys of secure boot. EC2 has a form of its own for them, which a machine's description
//! carries as it is; no other form is made of it, and none into it: it is packed with a dictionary that AWS does not document.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::{Error, Firmware, Kind, RestorePoint, Result};

use super::config::Clients;
use super::error::classify;

/// How EC2's form begins.
const MAGIC: &[u8] = b"AMZNUEFI";
/// More than EC2 ever has.
const LONGEST: usize = 1 << 20;

/// Puts an instance's variables into the firmware of its description. Answers a warning if they cannot be had.
pub(super) async fn read(clients: &Clients, instance: &str, firmware: &mut Firmware) -> Result<Option<String>> {
    let Firmware::Uefi { variables, .. } = firmware else { return Ok(None) };
    let operation = format!("cannot read the UEFI variables of instance {instance}");
    let answer = clients.ec2.get_instance_uefi_data().instance_id(instance).send().await;
    match answer.map_err(|error| classify(&operation, error)) {
        Ok(answer) => {
            if let Some(data) = answer.uefi_data().filter(|data| !data.is_empty()) {
                let wrong = |why: String| Error::new(Kind::Permanent, operation.clone()).because(why);
                let raw = STANDARD.decode(data).map_err(|error| wrong(error.to_string()))?;
                let packed = zstd::bulk::compress(&raw, 19).map_err(|error| wrong(error.to_string()))?;
                *variables = Some(STANDARD.encode(packed));
            }
            Ok(None)
        }
        Err(error) if error.kind().is_retryable() => Err(error),
        Err(error) => Ok(Some(error.chain())),
    }
}

/// A point's variables as EC2 takes them; none if it has none, or none of EC2's form.
pub(super) fn of(point: &RestorePoint) -> Result<Option<String>> {
    let Firmware::Uefi { variables: Some(packed), .. } = &point.machine.firmware else { return Ok(None) };
    let damaged = |why: String| {
        Error::new(Kind::Damaged, format!("cannot read the UEFI variables of point {}", point.id)).because(why)
    };
    let packed = STANDARD.decode(packed).map_err(|error| damaged(error.to_string()))?;
    let raw = zstd::bulk::decompress(&packed, LONGEST).map_err(|error| damaged(error.to_string()))?;
    if raw.starts_with(MAGIC) {
        return Ok(Some(STANDARD.encode(raw)));
    }
    tracing::warn!(point = %point.id, "its UEFI variables are not of EC2's form, so the image begins with fresh ones");
    Ok(None)
}
