//! What UEFI can start: the programs on the EFI system partition.

use std::io;

use fatfs::{Dir, FileSystem, FsOptions};

use super::Inspection;
use super::system::plain;
use super::window::Window;

/// Programs that are listed, at most.
const MOST: usize = 64;
/// Entries of a folder that are looked at: a folder may be a circle.
const ENTRIES: usize = 512;

/// Lists programs in `EFI/*/` of every FAT volume.
pub(super) fn read(window: &Window, found: &mut Inspection) {
    let mut programs = Vec::new();
    for volume in found.volumes.iter().filter(|volume| volume.content.as_deref() == Some("vfat")) {
        if let Err(error) = list(window.part(volume.offset, volume.len), &mut programs) {
            found.unknown.push(format!(
                "partition {}: cannot read its FAT: {}",
                volume.number,
                plain(&error.to_string())
            ));
        }
    }
    programs.sort();
    programs.dedup();
    programs.truncate(MOST);
    found.efi_programs = programs;
}

fn list(window: Window, programs: &mut Vec<String>) -> io::Result<()> {
    let system = FileSystem::new(window, FsOptions::new().update_accessed_date(false))?;
    let Some(efi) = child(&system.root_dir(), "EFI")? else { return Ok(()) };
    for vendor in efi.iter().take(ENTRIES) {
        let vendor = vendor?;
        let name = vendor.file_name();
        if !vendor.is_dir() || name.starts_with('.') {
            continue;
        }
        for entry in vendor.to_dir().iter().take(ENTRIES) {
            let file = entry?.file_name();
            if file.to_ascii_lowercase().ends_with(".efi") && programs.len() < MOST {
                programs.push(plain(&format!("/EFI/{name}/{file}")));
            }
        }
    }
    Ok(())
}

fn child<'a>(folder: &Dir<'a, Window>, name: &str) -> io::Result<Option<Dir<'a, Window>>> {
    for entry in folder.iter().take(ENTRIES) {
        let entry = entry?;
        if entry.is_dir() && entry.file_name().eq_ignore_ascii_case(name) {
            return Ok(Some(entry.to_dir()));
        }
    }
    Ok(None)
}
