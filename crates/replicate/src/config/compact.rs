//! `[vaults.NAME.compact]`: when the daemon compacts a vault, and what is worth it.

use engine::CompactSettings;

use super::document::{Document, below};
use super::raw::RawCompact;
use super::value::duration;

/// Checks the table; what is not said is as usual.
pub fn compact(document: &mut Document, raw: Option<RawCompact>, compression: i32, at: &str) -> CompactSettings {
    let usual = CompactSettings::default();
    let raw = raw.unwrap_or_default();
    let time = |document: &mut Document, key: &str, text: &str| {
        duration(text).map_err(|wrong| document.wrong_value(&below(at, key), wrong)).ok()
    };
    let every = match raw.every.as_deref() {
        None => usual.every,
        Some("never") => None,
        Some(text) => time(document, "every", text),
    };
    let recompress_after = raw.recompress_after.as_deref().and_then(|text| time(document, "recompress-after", text));
    let level = raw.level.unwrap_or_else(|| usual.level.max(compression));
    if level < compression {
        let why =
            format!("what is moved would grow: `compression` of this vault is {compression} — write at least that");
        document.wrong_value(&below(at, "level"), why);
    }
    CompactSettings { waste: raw.waste.unwrap_or(usual.waste), level, recompress_after, every }
}
