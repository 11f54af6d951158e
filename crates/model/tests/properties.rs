//! What holds of names, roots and extents for any input.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a test's verdict")]

use model::{Change, DiskName, DiskRoot, Extent, ExtentList, RunId, Select, ServerName, SiteName};
use proptest::prelude::*;

const SECTOR: u64 = 512;

/// What each sector of a small disk is listed as.
fn sectors(list: &ExtentList, size: u64) -> Vec<Option<Change>> {
    let mut all = vec![None; (size / SECTOR) as usize];
    for extent in list.as_slice() {
        for sector in extent.offset / SECTOR..extent.end() / SECTOR {
            all[sector as usize] = Some(extent.change);
        }
    }
    all
}

/// Ascending ranges within so many sectors, with gaps, of either kind.
fn ranges(sectors: u64) -> impl Strategy<Value = ExtentList> {
    proptest::collection::vec((0..6_u64, 0..20_u64, any::<bool>()), 0..40).prop_map(move |steps| {
        let mut at = 0;
        let mut list = ExtentList::new();
        for (gap, len, data) in steps {
            let start = (at + gap).min(sectors);
            let len = len.min(sectors - start);
            let make = if data { Extent::data } else { Extent::zero };
            list.push(make(start * SECTOR, len * SECTOR));
            at = start + len;
        }
        list
    })
}

fn well_formed(list: &ExtentList) -> bool {
    let parts = list.as_slice();
    parts.iter().all(|extent| extent.len > 0)
        && parts.windows(2).all(|pair| {
            let (one, two) = (pair[0], pair[1]);
            one.end() < two.offset || (one.end() == two.offset && one.change != two.change)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lists_are_ordered_and_merged_whatever_is_pushed(
        pushed in proptest::collection::vec((0..200_u64, 0..20_u64, any::<bool>()), 0..30),
    ) {
        let mut list = ExtentList::new();
        for (offset, len, data) in pushed {
            let make = if data { Extent::data } else { Extent::zero };
            // ascending ends are the caller's part of the bargain
            let last = list.as_slice().last().map_or(0, Extent::end);
            list.push(make((offset * SECTOR).max(last.saturating_sub(3 * SECTOR)), len * SECTOR));
            prop_assert!(well_formed(&list), "{list:?}");
        }
    }

    /// A unit is data if anything in it must be read or is not wholly known to be zero, zero if all of it is.
    #[test]
    fn alignment_equals_a_model_by_sectors(list in ranges(256), unit in 0..5_u32, tail in 0..16_u64) {
        let unit = SECTOR << unit;
        let size = (256 + tail) * SECTOR;
        let before = sectors(&list, size);
        let aligned = list.aligned(unit, size);
        prop_assert!(well_formed(&aligned), "{aligned:?}");
        let after = sectors(&aligned, size);
        let width = (unit / SECTOR) as usize;
        for (before, after) in before.chunks(width).zip(after.chunks(width)) {
            let expected = if before.iter().all(Option::is_none) {
                None
            } else if before.iter().all(|sector| *sector == Some(Change::Zero)) {
                Some(Change::Zero)
            } else {
                Some(Change::Data)
            };
            prop_assert!(after.iter().all(|sector| *sector == expected), "{list:?} by {unit}: {aligned:?}");
        }
    }

    #[test]
    fn a_name_that_is_accepted_is_safe_in_a_path_and_comes_back(text in "\\PC{0,12}|[a-z./:@+-]{0,12}|(\\.\\.?/?){0,4}") {
        if let Ok(name) = DiskName::new(text.clone()) {
            prop_assert_eq!(name.as_str(), text.as_str());
            let json = serde_json::to_string(&name).unwrap();
            prop_assert_eq!(serde_json::from_str::<DiskName>(&json).unwrap(), name);
            let inside = std::path::Path::new("/base").join(&text);
            prop_assert!(inside.starts_with("/base") && inside.components().all(|c| c != std::path::Component::ParentDir));
        } else {
            let json = serde_json::to_string(&text).unwrap();
            prop_assert!(serde_json::from_str::<DiskName>(&json).is_err());
        }
    }

    #[test]
    fn a_root_has_one_text(bytes in any::<[u8; 32]>(), at in 0..64_usize, with in "[+ \\-_xg\u{e9}A]", text in "\\PC{0,70}") {
        let root = DiskRoot(bytes);
        let mut near = root.to_hex();
        near.replace_range(at..=at, &with);
        if let Some(read) = DiskRoot::from_hex(&near) {
            prop_assert_eq!(read.to_hex(), near.to_ascii_lowercase());
        }
        prop_assert_eq!(DiskRoot::from_hex(&root.to_hex()), Some(root));
        if let Some(read) = DiskRoot::from_hex(&text) {
            prop_assert_eq!(read.to_hex(), text.to_ascii_lowercase());
        }
    }

    #[test]
    fn run_ids_sort_by_time(one in 0..4_000_000_000_i64, two in 0..4_000_000_000_i64, random in any::<u32>()) {
        let id = |second| RunId::at(jiff::Timestamp::from_second(second).unwrap(), random);
        prop_assert_eq!(id(one).cmp(&id(two)), one.cmp(&two));
        prop_assert_eq!(id(one).point().run(), id(one));
    }

    #[test]
    fn patterns_fit_themselves_and_what_a_star_stands_for(name in "[a-z0-9-]{1,10}", cut in 0..10_usize) {
        prop_assume!(!name.starts_with('-'));
        let cut = cut.min(name.len());
        let covers = |pattern: String| {
            let site = SiteName::new("lab").unwrap();
            let select = Select { site, servers: vec![pattern], tags: Default::default() };
            select.covers(&ServerName::new(name.clone()).unwrap(), &Default::default())
        };
        let (head, tail) = name.split_at(cut);
        for fitting in [name.clone(), format!("{head}*"), format!("*{tail}"), "?".repeat(name.len())] {
            prop_assert!(covers(fitting.clone()), "{} {}", fitting, name);
        }
        for other in ["?".repeat(name.len() + 1), format!("{name}?*"), format!("{name}x")] {
            prop_assert!(!covers(other.clone()), "{} {}", other, name);
        }
    }
}
