//! Which keys a vault may use: those that every store and every file system takes, and that cannot leave the bucket.

use model::{Error, Kind, Result};

/// The longest key in bytes: S3 takes 1024, less the prefix of a vault inside a shared bucket.
pub const LONGEST_KEY: usize = 768;

/// The longest part between two slashes: file systems take 255, less what a temporary name adds.
pub const LONGEST_PART: usize = 200;

/// Refuses a key that some store would refuse, fold, or read as a path out of the bucket.
pub fn check_key(key: &str) -> Result<()> {
    let reason = if key.len() > LONGEST_KEY {
        "it is too long"
    } else if let Some(reason) = key.split('/').find_map(bad_part) {
        reason
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::Invalid, format!("`{}` is not an object key", key.escape_debug())).because(reason))
}

/// Refuses a prefix of which no key could be made; the empty prefix means everything.
pub fn check_prefix(prefix: &str) -> Result<()> {
    let whole = prefix.strip_suffix('/').unwrap_or(prefix);
    if prefix.is_empty() { Ok(()) } else { check_key(whole) }
}

fn bad_part(part: &str) -> Option<&'static str> {
    if part.is_empty() {
        Some("a part of it is empty")
    } else if part.starts_with('.') {
        Some("a part of it begins with a dot")
    } else if part.len() > LONGEST_PART {
        Some("a part of it is too long")
    } else if part.chars().any(|c| c.is_control() || c == '\\') {
        Some("it has a control character or a backslash")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_inside_the_bucket() {
        for good in ["config", "packs/ab12", "manifests/web 1/x+y=z@é", "a.b/c..d", "-x"] {
            check_key(good).unwrap();
        }
        let long = "x".repeat(LONGEST_PART + 1);
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", ".incoming/x", "a\0b", "a\nb", "a\\b", &long] {
            assert_eq!(check_key(bad).unwrap_err().kind(), Kind::Invalid, "{bad:?}");
        }
        check_prefix("").unwrap();
        check_prefix("packs/").unwrap();
        check_prefix("packs/ab").unwrap();
        check_prefix("../").unwrap_err();
    }
}
