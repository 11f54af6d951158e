//! Addresses of buckets as configuration writes them: `dir:/srv/vault`, `s3://bucket/prefix`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use model::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

use super::check_prefix;

/// Where a vault lies. The binary turns it into a [`Bucket`](super::Bucket): some kinds live in other crates.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum BucketUrl {
    /// A directory, by absolute path.
    Dir(PathBuf),
    /// An S3 bucket, with a prefix that is empty or ends with a slash.
    S3 {
        /// Name of the bucket.
        bucket: String,
        /// What all keys begin with.
        prefix: String,
    },
}

impl FromStr for BucketUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Err(Error::new(Kind::Invalid, format!("`{}` is not the address of a bucket", text.escape_debug()))
                .because(why)
                .hint("write dir:/absolute/path or s3://bucket/prefix"))
        };
        if let Some(path) = text.strip_prefix("dir:") {
            let path = PathBuf::from(path.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(path));
            let up = path.components().any(|part| part == std::path::Component::ParentDir);
            return match path {
                path if !path.is_absolute() => refuse("the path is not absolute"),
                path if path.as_os_str().as_encoded_bytes().starts_with(b"//") => refuse("it names a host"),
                _ if up => refuse("the path goes up with `..`"),
                path => Ok(Self::Dir(path)),
            };
        }
        let Some(rest) = text.strip_prefix("s3://") else {
            return match text.split_once(':') {
                Some((scheme @ ("azblob" | "gs" | "oss"), _)) => refuse(&format!("{scheme} is not built in yet")),
                _ => refuse("it begins with neither dir: nor s3://"),
            };
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        let ends = bucket.starts_with(['-', '.']) || bucket.ends_with(['-', '.']);
        if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(name) || ends || bucket.contains("..") {
            return refuse("a bucket's name has 3 to 63 of a-z 0-9 - . and begins and ends with a letter or digit");
        }
        let prefix = prefix.trim_end_matches('/');
        if check_prefix(prefix).is_err() || prefix.len() > 200 {
            return refuse("the prefix is too long, or a part of it is empty or begins with a dot");
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self::S3 { bucket: bucket.to_owned(), prefix })
    }
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(path) => write!(f, "dir:{}", path.display()),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{}", prefix.trim_end_matches('/')),
        }
    }
}

impl TryFrom<String> for BucketUrl {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<BucketUrl> for String {
    fn from(url: BucketUrl) -> String {
        url.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, again) in [
            ("dir:/srv/vault", "dir:/srv/vault"),
            ("dir:///srv/vault", "dir:/srv/vault"),
            ("s3://backup/a/b/", "s3://backup/a/b"),
            ("s3://backup", "s3://backup/"),
        ] {
            let url: BucketUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), again);
            assert_eq!(again.parse::<BucketUrl>().unwrap(), url);
        }
    }

    #[test]
    fn mistakes_are_refused() {
        let bad = [
            "",
            "/srv/vault",
            "dir:vault",
            "dir:/srv/../etc",
            "dir://host/x",
            "s3://",
            "s3://Backup/x",
            "s3://a",
            "s3://back_up",
            "s3://backup/../x",
            "s3://backup/a//b",
            "gs://backup",
            "ftp://x",
        ];
        for text in bad {
            assert_eq!(text.parse::<BucketUrl>().unwrap_err().kind(), Kind::Invalid, "{text}");
        }
    }
}
