//! What is inside a disk, as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use disk::{Inspection, Kernel, System, Volume};

use super::human::bytes;
use super::table::table;
use crate::commands::Inspected;

/// All disks.
pub fn text(all: &[Inspected]) -> String {
    all.iter().map(|one| disk(&one.disk, &one.inside)).collect::<Vec<_>>().join("\n")
}

fn disk(name: &str, inside: &Inspection) -> String {
    let kind = match &inside.table {
        Some(table) => format!("{table} partition table"),
        None => "no partition table".to_owned(),
    };
    let firmware = match inside.firmware().as_slice() {
        [] => "nothing that firmware could start".to_owned(),
        found => format!("boots under {}", found.join(" and ")),
    };
    let mut text = format!("{name}: {}, {kind}, {firmware}\n", bytes(inside.size));
    text += &indented(&table(&["part", "begins", "size", "for", "holds", "label", "uuid"], rows(&inside.volumes)));
    for program in &inside.efi_programs {
        let _ = writeln!(text, "  uefi program: {program}");
    }
    for system in &inside.systems {
        text += &self::system(system);
    }
    if inside.systems.is_empty() {
        text += "  no operating system was found on it\n";
    }
    for unknown in &inside.unknown {
        let _ = writeln!(text, "  note: {unknown}");
    }
    text
}

fn rows(volumes: &[Volume]) -> Vec<Vec<String>> {
    let or = |field: &Option<String>| field.clone().unwrap_or_else(|| "-".to_owned());
    let row = |volume: &Volume| {
        vec![
            volume.number.to_string(),
            bytes(volume.offset),
            bytes(volume.len),
            volume.purpose.clone(),
            or(&volume.content),
            or(&volume.label),
            or(&volume.uuid),
        ]
    };
    volumes.iter().map(row).collect()
}

fn system(system: &System) -> String {
    let host = system.hostname.as_ref().map(|name| format!(", host name {name}")).unwrap_or_default();
    let mut text = format!("  system on part {}: {} ({}){host}\n", system.volume, system.name, system.release);
    if system.kernels.is_empty() {
        text += "    no kernel was found\n";
    }
    for kernel in &system.kernels {
        text += &self::kernel(kernel);
    }
    for (kind, title) in [
        ("boot", "may not boot elsewhere"),
        ("identity", "two copies would be taken for one"),
        ("secret", "whoever has the disk has it"),
    ] {
        for finding in system.findings.iter().filter(|finding| finding.kind == kind) {
            let _ = writeln!(text, "    {title}: {}", finding.what);
        }
    }
    text
}

fn kernel(kernel: &Kernel) -> String {
    let mut by: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (kind, how) in &kernel.drivers {
        by.entry(if how == "missing" { "missing" } else { "has" }).or_default().push(kind);
    }
    let has = by.get("has").map_or_else(|| "nothing".to_owned(), |kinds| kinds.join(", "));
    let mut text = format!("    kernel {}: finds its root on {has}", kernel.version);
    if let Some(missing) = by.get("missing") {
        let _ = write!(text, "; not on {}", missing.join(", "));
    }
    text.push('\n');
    if let Some(note) = &kernel.note {
        let _ = writeln!(text, "      note: {note}");
    }
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
