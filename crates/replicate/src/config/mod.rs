//! Configuration: `replicate.toml` and the policies beside it. Raw form (what may be typed), validated form (what
//! makes sense), and between them a check that reports every mistake of every file at once.

#[cfg(feature = "aws")]
mod aws;
#[cfg(feature = "azure")]
mod azure;
#[cfg(feature = "azure")]
mod azure_login;
mod bucket;
mod check;
mod compact;
mod destination;
mod document;
mod policy;
mod raw;
mod raw_policy;
pub mod schema;
mod settings;
mod shape;
mod site;
#[cfg(test)]
mod tests;
mod value;

use std::path::{Path, PathBuf};

use model::{Error, Kind, PolicyName, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;

#[cfg(feature = "aws")]
pub use aws::AwsSettings;
#[cfg(feature = "azure")]
pub use azure::AzureSettings;
pub use document::{FileMistakes, suggestion};
pub use settings::{
    Accelerator, BucketUrl, Format, IdentityRef, LogForm, OpenStackSettings, Overview, QemuSettings, RecipientRef,
    S3Settings, Settings, SiteSettings, VaultSettings,
};
#[cfg(feature = "azure")]
pub use settings::{AzblobAccess, AzblobSettings};
pub use value::{SecretRef, duration};

use document::Document;
use policy::Known;

/// Why there are no settings.
#[derive(Debug)]
pub enum Refusal {
    /// A file cannot be read.
    Unreadable(Error),
    /// The files have mistakes.
    Mistakes(Vec<FileMistakes>),
}

/// Where configuration is looked for when `-c` is not given.
const PLACES: [&str; 2] = ["replicate.toml", "/etc/replicate/replicate.toml"];

/// The configuration file to use.
pub fn find(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    PLACES.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
        Error::new(Kind::Invalid, "there is no configuration")
            .because(format!("neither `{}` nor `{}` exists", PLACES[0], PLACES[1]))
            .hint("write one with `replicate init`, or name one with `replicate -c FILE`")
    })
}

/// Reads and checks the configuration file and all policies beside it.
pub fn load(file: &Path) -> Result<Settings, Refusal> {
    let text = read(file).map_err(Refusal::Unreadable)?;
    let mut wrong = Vec::new();
    let (mut settings, known, folder) = match settings_of(file, &text) {
        (Ok(parts), mistakes) => {
            wrong.extend(mistakes);
            parts
        }
        (Err(()), mistakes) => return Err(Refusal::Mistakes(mistakes.into_iter().collect())),
    };
    for path in policy_files(&folder).map_err(Refusal::Unreadable)? {
        let text = read(&path).map_err(Refusal::Unreadable)?;
        match policy_of(&path, &text, &known) {
            Ok(policy) => {
                settings.policies.insert(policy.name.clone(), policy);
            }
            Err(mistakes) => wrong.push(mistakes),
        }
    }
    if wrong.is_empty() { Ok(settings) } else { Err(Refusal::Mistakes(wrong)) }
}

type Parts = (Settings, Known, PathBuf);

/// Checks the text of `replicate.toml`. What is usable is returned beside the mistakes, so that the policies can be
/// checked in the same go; a file with syntax errors gives nothing.
fn settings_of(file: &Path, text: &str) -> (Result<Parts, ()>, Option<FileMistakes>) {
    let (mut document, value) = Document::parse(file.display().to_string(), text);
    let Some(value) = value else { return (Err(()), document.finish()) };
    let known = Known {
        sites: names(&value, "sites")
            .map(|(name, site)| {
                // a cloud is captured from and restored to; a host says which
                let either = site.get("kind").and_then(Value::as_str) != Some("qemu");
                let has = |key| either || site.get(key).is_some();
                (name.clone(), has("sockets"), has("disks"))
            })
            .collect(),
        kinds: names(&value, "sites")
            .filter_map(|(name, site)| Some((name.clone(), site.get("kind")?.as_str()?.to_owned())))
            .collect(),
        keys: names(&value, "sites")
            .filter_map(|(name, site)| {
                let key = ["kms-key", "disk-encryption-set"].iter().find_map(|key| site.get(*key)?.as_str())?;
                Some((name.clone(), key.to_owned()))
            })
            .collect(),
        unfrozen: names(&value, "sites")
            .filter(|(_, site)| match site.get("kind").and_then(Value::as_str) {
                Some("aws") => site.get("freeze").is_none(),
                kind => kind == Some("azure"),
            })
            .map(|(name, _)| name.clone())
            .collect(),
        vaults: names(&value, "vaults").map(|(name, _)| name.clone()).collect(),
    };
    let raw: Option<raw::RawSettings> = decode(&mut document, &schema::settings(), value);
    let (settings, folder) = check::settings(&mut document, raw.unwrap_or_default(), file);
    (Ok((settings, known, folder)), document.finish())
}

/// Checks the text of a policy file.
fn policy_of(path: &Path, text: &str, known: &Known) -> Result<model::Policy, FileMistakes> {
    let (mut document, value) = Document::parse(path.display().to_string(), text);
    let mut found = None;
    if let Some(value) = value {
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let name = PolicyName::new(stem);
        let raw: Option<raw_policy::RawPolicy> = decode(&mut document, &schema::policy(), value);
        match (name, raw) {
            (Ok(name), Some(raw)) => found = policy::policy(&mut document, name, raw, known),
            (Err(error), _) => document.wrong_key("", error.chain()),
            (Ok(_), None) => {}
        }
    }
    match (document.finish(), found) {
        (Some(mistakes), _) => Err(mistakes),
        (None, Some(policy)) => Ok(policy),
        // cannot be: a policy that is not made has left a mistake
        (None, None) => Err(FileMistakes { file: path.display().to_string(), mistakes: Vec::new() }),
    }
}

fn names<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value.get(key).and_then(Value::as_object).into_iter().flatten()
}

fn decode<T: DeserializeOwned>(document: &mut Document, schema: &Value, mut value: Value) -> Option<T> {
    shape::check(document, schema, &mut value);
    match serde_json::from_value(value) {
        Ok(raw) => Some(raw),
        Err(error) => {
            // the shape check has removed everything that could lead here; a gap in it must not pass silently
            document.wrong_key("", error.to_string());
            None
        }
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| {
        let missing = source.kind() == std::io::ErrorKind::NotFound;
        let error = Error::new(Kind::Invalid, format!("cannot read `{}`", path.display())).because(source);
        if missing { error.hint("write a starter configuration with `replicate init`") } else { error }
    })
}

/// The policies of a folder, sorted; none if there is no folder.
fn policy_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let wrong = |source| Error::new(Kind::Invalid, format!("cannot list `{}`", folder.display())).because(source);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(wrong(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(wrong)?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.extension().is_some_and(|end| end == "toml") && !hidden && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
