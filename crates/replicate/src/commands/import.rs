//! `replicate import`: disk images become a restore point.

use std::path::Path;

use engine::{FileFormat, ImportRequest};
use model::{Arch, Error, Firmware, Kind, Result, ServerName};

use super::{Context, Outcome, absolute, place};
use crate::args::{ArchArg, FirmwareArg, FormatArg, ImportArgs};
use crate::output::human;
use crate::request::Request;

/// Imports.
pub async fn run(context: &Context, args: ImportArgs) -> Outcome {
    let settings = context.settings()?;
    let memory = human::parse_size(&args.memory).ok_or_else(|| {
        Error::new(Kind::Invalid, format!("`{}` is not a size of memory", args.memory)).hint("write `512` or `2GiB`")
    })?;
    if args.format.is_none() {
        for file in &args.files {
            agrees_with_its_name(file).await?;
        }
    }
    let request = ImportRequest {
        files: args.files.iter().map(|path| absolute(path)).collect::<Result<_>>()?,
        format: args.format.map(format_of),
        server: ServerName::new(args.server)?,
        to: args.to.iter().map(|to| place(&settings, to)).collect::<Result<_>>()?,
        arch: match args.arch {
            ArchArg::X86_64 => Arch::X86_64,
            ArchArg::Aarch64 => Arch::Aarch64,
        },
        firmware: match args.firmware {
            FirmwareArg::Bios => Firmware::Bios,
            FirmwareArg::Uefi => Firmware::Uefi { secure_boot: false, variables: None },
        },
        memory,
        vcpus: args.vcpus,
    };
    context.answer(&settings, Request::Import(request)).await
}

/// Refuses a file that looks like another format than its name says: read as raw, it would become a point that no machine boots.
async fn agrees_with_its_name(file: &Path) -> Result<()> {
    let named = file.extension().is_some_and(|end| end.eq_ignore_ascii_case("qcow2"));
    match disk::detect(file).await? {
        Some(disk::Format::Qcow2) if !named => {
            Err(Error::new(Kind::Invalid, format!("cannot tell what format {} has", file.display()))
                .because("it looks like qcow2, and its name does not say so")
                .hint("say `--format qcow2`, or `--format raw` if a guest wrote those bytes"))
        }
        _ => Ok(()),
    }
}

/// The engine's word for a format.
pub fn format_of(format: FormatArg) -> FileFormat {
    match format {
        FormatArg::Raw => FileFormat::Raw,
        FormatArg::Qcow2 => FileFormat::Qcow2,
    }
}
