//! Finds the host's UEFI firmware, and gives an instance its own variable store.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use model::{Error, Kind, Result};

/// The longest variable store that is accepted; real ones have 128 to 528 KiB.
const LONGEST: usize = 16 << 20;

/// Code and template of the variables, by distribution; the larger variable store first.
const PLAIN: &[(&str, &str)] = &[
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/qemu/edk2-x86_64-code.fd", "/usr/share/qemu/edk2-i386-vars.fd"),
];

/// The same with secure boot.
const SECURE: &[(&str, &str)] = &[
    ("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
    ("/usr/share/OVMF/OVMF_CODE.secboot.fd", "/usr/share/OVMF/OVMF_VARS.ms.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd"),
    ("/usr/share/qemu/edk2-x86_64-secure-code.fd", "/usr/share/qemu/edk2-i386-vars.fd"),
];

/// Firmware for one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Uefi {
    /// The code, shared and read only.
    pub(super) code: PathBuf,
    /// What the instance's variable store begins with.
    pub(super) variables: Vec<u8>,
}

/// The firmware for a machine: with its captured variables (boot entries, keys) if it has them, fresh ones otherwise.
pub(super) fn find(secure_boot: bool, captured: Option<&str>) -> Result<Uefi> {
    // a cloud's own form of them is no flash image, and nothing that a guest here could read
    let captured = captured.map(unpack).transpose()?.filter(|raw| raw.get(40..44) == Some(b"_FVH"));
    let mut found = false;
    for (code, template) in if secure_boot { SECURE } else { PLAIN } {
        let (code, template) = (Path::new(code), Path::new(template));
        if !code.exists() || !template.exists() {
            continue;
        }
        found = true;
        let fresh =
            std::fs::read(template).map_err(|error| Error::io(format!("cannot read {}", template.display()), error))?;
        match &captured {
            None => return Ok(Uefi { code: code.to_owned(), variables: fresh }),
            // code and variables share one flash layout: only those of one size fit together
            Some(own) if own.len() == fresh.len() => {
                return Ok(Uefi { code: code.to_owned(), variables: own.clone() });
            }
            Some(_) => {}
        }
    }
    let operation = if secure_boot {
        "cannot find UEFI firmware with secure boot on this host"
    } else {
        "cannot find UEFI firmware on this host"
    };
    Err(if found {
        Error::new(Kind::Invalid, operation)
            .because("the server's variable store fits no firmware that is installed here")
            .hint("install the OVMF package of the same flash size as at the source")
    } else {
        Error::new(Kind::Invalid, operation).hint("install OVMF (Debian: apt-get install ovmf)")
    })
}

/// The raw variable store from its form in a machine description.
fn unpack(text: &str) -> Result<Vec<u8>> {
    let bad = |why: String| Error::new(Kind::Damaged, "cannot read the server's captured UEFI variables").because(why);
    let packed = BASE64.decode(text).map_err(|error| bad(error.to_string()))?;
    zstd::bulk::decompress(&packed, LONGEST).map_err(|error| bad(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_variables_are_kept_and_damaged_ones_refused() {
        if !Path::new(PLAIN[0].0).exists() {
            println!("SKIPPED: OVMF is not installed");
            return;
        }
        let mut own = find(false, None).unwrap().variables;
        own[100] ^= 1;
        let text = BASE64.encode(zstd::bulk::compress(&own, 3).unwrap());
        assert_eq!(find(false, Some(&text)).unwrap().variables, own);
        let odd = BASE64.encode(zstd::bulk::compress(&own[..5000], 3).unwrap());
        assert_eq!(find(false, Some(&odd)).unwrap_err().kind(), Kind::Invalid);
        let foreign = BASE64.encode(zstd::bulk::compress(b"AMZNUEFI, another cloud's own form", 3).unwrap());
        assert_eq!(find(false, Some(&foreign)).unwrap().variables, find(false, None).unwrap().variables);
        assert_eq!(find(false, Some("@@")).unwrap_err().kind(), Kind::Damaged);
    }
}
