//! A type for every kind of name, declared by one macro, so that a site can never be passed where a server is meant.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Kind, Result};

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and wraps a name: 1 to 128 of `A-Z a-z 0-9 . _ - : / @ +`, not beginning with a dot or dash.
            pub fn new(text: impl Into<String>) -> Result<Self> {
                let text = text.into();
                check(stringify!($name), &text)?;
                Ok(Self(text))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    )+};
}

names! {
    /// One account in one region of one cloud, or one hypervisor host.
    SiteName,
    /// A running machine at a site.
    ServerName,
    /// A policy: which servers, when, to where.
    PolicyName,
    /// A deduplicated encrypted store in a bucket.
    VaultName,
    /// A disk of a server, stable between captures.
    DiskName,
    /// One execution of one policy for one server: `20261122T030000Z-7f3a9c21` (UTC second, 32 random bits).
    RunId,
    /// A restore point. A run makes one point, and the point has the text of its run.
    PointId,
    /// The source snapshots of one instant, in the provider's words.
    CaptureId,
    /// What a later capture is incremental against, in the provider's words (QEMU: the bitmap's name).
    Cursor,
    /// A native image at a site.
    ImageId,
    /// A running instance made by a restore or drill.
    InstanceId,
    /// Who made a resource: one installation of `replicate`.
    OwnerId,
}

impl RunId {
    /// The point that this run makes.
    pub fn point(&self) -> PointId {
        PointId(self.0.clone())
    }

    /// Builds the id from an instant and 32 random bits.
    pub fn at(instant: jiff::Timestamp, random: u32) -> Self {
        Self(format!("{}-{random:08x}", instant.strftime("%Y%m%dT%H%M%SZ")))
    }
}

impl PointId {
    /// The run that made this point.
    pub fn run(&self) -> RunId {
        RunId(self.0.clone())
    }
}

fn check(what: &str, text: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-:/@+".contains(c);
    let reason = if text.is_empty() {
        "it is empty"
    } else if text.len() > 128 {
        "it is longer than 128 characters"
    } else if text.starts_with(['.', '-', '/']) {
        "it begins with a dot, a dash or a slash"
    } else if text.split('/').any(|part| part == ".." || part == ".") {
        "it has a path component `.` or `..`"
    } else if !text.chars().all(fine) {
        "only letters, digits and . _ - : / @ + are allowed"
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::Invalid, format!("`{}` is not a {what}", text.escape_debug())).because(reason))
}
