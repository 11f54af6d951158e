//! Small values of the files: durations, references to secrets, places.

use std::path::{Path, PathBuf};
use std::time::Duration;

use model::{Error, Kind, Result};
use secrecy::SecretString;
use serde::Serialize;

/// Reads `90s`, `10m`, `24h`, `7d`, `2w` or several of them in a row (`1h30m`). Zero is refused by the callers that
/// cannot use it, not here.
pub fn duration(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration — write a number and a unit: `90s`, `10m`, `24h`, `7d`, `2w`");
    let mut rest = text.trim();
    let mut total = 0u64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let mut tail = rest[digits..].chars();
        let unit = match tail.next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3_600,
            Some('d') => 86_400,
            Some('w') => 604_800,
            _ => return Err(wrong()),
        };
        rest = tail.as_str();
        total = number.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
    }
    // a century: beyond that, sums with instants overflow, and somebody has mistyped
    if total > 100 * 366 * 86_400 {
        return Err(format!("`{text}` is longer than a century — `keep = \"forever\"` keeps everything"));
    }
    Ok(Duration::from_secs(total))
}

/// Where a secret lies. The files name it, and never hold it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretRef {
    /// An environment variable.
    Env(String),
    /// The first line of a file.
    File(PathBuf),
}

impl SecretRef {
    /// Reads `env:NAME` or `file:/path`. The refusal never repeats the text, which may be the secret itself.
    pub fn parse(text: &str, folder: &Path) -> std::result::Result<Self, String> {
        if let Some(name) = text.strip_prefix("env:") {
            return Self::env(name);
        }
        match text.strip_prefix("file:") {
            Some(path) if !path.is_empty() => Ok(Self::File(folder.join(path))),
            _ => Err("a secret must not stand in this file — refer to it as `env:NAME` or `file:/path`".to_owned()),
        }
    }

    /// A reference to an environment variable.
    pub fn env(name: &str) -> std::result::Result<Self, String> {
        let fine = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if fine {
            return Ok(Self::Env(name.to_owned()));
        }
        Err("this is not the name of an environment variable — letters, digits and `_` are allowed".to_owned())
    }

    /// Fetches the secret. `what` names it in errors: `the passphrase of vault main`.
    pub fn read(&self, what: &str) -> Result<SecretString> {
        let text = match self {
            Self::Env(name) => std::env::var(name).map_err(|_| {
                Error::new(Kind::Denied, format!("cannot read {what}"))
                    .because(format!("the environment variable `{name}` is not set"))
                    .hint(format!("set `{name}` for this process, for example with systemd's `EnvironmentFile=`"))
            })?,
            Self::File(path) => std::fs::read_to_string(path).map_err(|source| {
                Error::new(Kind::Denied, format!("cannot read {what} from `{}`", path.display())).because(source)
            })?,
        };
        let line = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#')).unwrap_or_default();
        if line.is_empty() {
            return Err(Error::new(Kind::Denied, format!("cannot read {what}")).because(format!("{self} is empty")));
        }
        Ok(SecretString::from(line.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

impl std::fmt::Display for SecretRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("2w"), Ok(Duration::from_secs(1_209_600)));
        for wrong in ["", "24", "h", "1.5h", "-1h", "24 h x", "99999999999999999999d", "3000w0y", "2000000d"] {
            assert!(duration(wrong).is_err(), "{wrong} must be refused");
        }
    }

    #[test]
    fn a_refused_secret_is_not_repeated() {
        let refusal = SecretRef::parse("hunter2", Path::new("/")).expect_err("inline");
        assert!(!refusal.contains("hunter2"));
        assert_eq!(SecretRef::parse("env:KEY", Path::new("/")), Ok(SecretRef::Env("KEY".into())));
        assert_eq!(SecretRef::parse("file:k", Path::new("/etc")), Ok(SecretRef::File("/etc/k".into())));
    }

    #[test]
    fn only_the_first_line_is_the_secret() {
        use secrecy::ExposeSecret;
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), "# created: today\n  spaced phrase \r\nsecond\n").expect("write");
        let secret = SecretRef::File(file.path().to_owned()).read("it").expect("secret");
        assert_eq!(secret.expose_secret(), "  spaced phrase ");
    }
}
