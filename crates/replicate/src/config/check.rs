//! `replicate.toml`: from what it may say to what makes sense.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::{PriceList, Prices, SiteName, VaultName};

use super::bucket::bucket;
use super::compact::compact;
use super::document::{Document, below};
use super::raw::{RawDaemon, RawIdentity, RawPrices, RawRecipient, RawSettings, RawVault};
use super::settings::{DaemonSettings, IdentityRef, LogForm, RecipientRef, Settings, VaultSettings};
use super::site;
use super::value::{SecretRef, duration};

const LEDGER: &str = "/var/lib/replicate/ledger";
/// What a socket's address holds on Linux.
const SOCKET_LIMIT: usize = 107;

/// Checks everything; what is wrong is noted in `document` and left out of the result.
pub fn settings(document: &mut Document, raw: RawSettings, file: &Path) -> (Settings, PathBuf) {
    // absolute, so that a path means the same to the daemon and in the messages of every command
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    let ledger = folder.join(raw.ledger.as_deref().unwrap_or(LEDGER));
    let mut sites = BTreeMap::new();
    let mut prices = PriceList::new();
    for (name, mut raw) in raw.sites {
        let at = below("/sites", &name);
        if let (Some(told), Ok(name)) = (raw.prices.take(), SiteName::new(&name)) {
            prices.extend(price(document, told, &below(&at, "prices")).map(|price| (name, price)));
        }
        if let Some((name, site)) =
            name_of(document, SiteName::new(&name), &at).zip(site::site(document, raw, folder, &at))
        {
            sites.insert(name, site);
        }
    }
    let mut vaults = BTreeMap::new();
    for (name, raw) in raw.vaults {
        let at = below("/vaults", &name);
        if let Some((name, vault)) =
            name_of(document, VaultName::new(&name), &at).zip(vault(document, raw, folder, &at))
        {
            vaults.insert(name, vault);
        }
    }
    let daemon = daemon(document, raw.daemon.unwrap_or_default(), folder, &ledger);
    let retention = raw.retention.unwrap_or_default();
    let retention_every =
        grace(document, "/retention/every", retention.every.as_deref(), 6).max(Duration::from_secs(1));
    let replica_grace = grace(document, "/retention/replica-grace", retention.replica_grace.as_deref(), 72);
    let pack_grace = grace(document, "/retention/pack-grace", retention.pack_grace.as_deref(), 24);
    if pack_grace < Duration::from_secs(3600) {
        document.wrong_value("/retention/pack-grace", "a writer may need a pack longer than that — at least `1h`");
    }
    // as typed: this one is named in messages about mistakes
    let beside = file.parent().unwrap_or(Path::new(""));
    let policies = beside.join(raw.policies.as_deref().unwrap_or("policies"));
    let (file, none) = (file.to_owned(), BTreeMap::new());
    let settings = Settings {
        file,
        ledger,
        sites,
        prices,
        vaults,
        daemon,
        replica_grace,
        pack_grace,
        retention_every,
        policies: none,
    };
    (settings, policies)
}

fn grace(document: &mut Document, at: &str, text: Option<&str>, hours: u64) -> Duration {
    let usual = Duration::from_secs(hours * 3600);
    let Some(text) = text else { return usual };
    duration(text).map_err(|wrong| document.wrong_value(at, wrong)).unwrap_or(usual)
}

fn price(document: &mut Document, raw: RawPrices, at: &str) -> Option<Prices> {
    for (key, price) in [("inbound", raw.inbound), ("relay", raw.relay)] {
        if price.is_some_and(|price| price < 0.0) {
            document.wrong_value(&below(at, key), format!("`{key}` is a price for a GiB, and none is below zero"));
        }
    }
    let currency = raw.currency?;
    if currency.trim().is_empty() {
        document.wrong_value(&below(at, "currency"), "`currency` is empty — write `EUR`, say");
    }
    Some(Prices { currency, inbound: raw.inbound, relay: raw.relay })
}

fn name_of<T>(document: &mut Document, name: model::Result<T>, at: &str) -> Option<T> {
    name.map_err(|error| document.wrong_key(at, error.chain())).ok()
}

fn vault(document: &mut Document, raw: RawVault, folder: &Path, at: &str) -> Option<VaultSettings> {
    let url = bucket(document, raw.url.as_deref(), (raw.s3, raw.azblob), folder, at);
    let list_at = below(at, "recipients");
    if raw.recipients.as_ref().is_some_and(Vec::is_empty) {
        document.wrong_value(&list_at, "without a recipient nobody could open the vault — name at least one");
    }
    let had_recipients = raw.recipients.is_some();
    let recipients: Vec<RecipientRef> = (raw.recipients.unwrap_or_default().into_iter().enumerate())
        .filter_map(|(index, raw)| recipient(document, raw, folder, &below(&list_at, &index.to_string())))
        .collect();
    let identities_at = below(at, "identities");
    let had_identities = raw.identities.is_some();
    let mut identities: Vec<IdentityRef> = (raw.identities.unwrap_or_default().into_iter().enumerate())
        .filter_map(|(index, raw)| identity(document, raw, folder, &below(&identities_at, &index.to_string())))
        .collect();
    if !had_identities {
        identities = recipients
            .iter()
            .filter_map(|recipient| match recipient {
                RecipientRef::Passphrase(secret) => Some(IdentityRef::Passphrase(secret.clone())),
                RecipientRef::Age(_) => None,
            })
            .collect();
    }
    if identities.is_empty() && had_recipients && document.is_fine(at) {
        let hint = "add `identities = [{ age-file = \"/etc/replicate/key.txt\" }]`";
        document.wrong_key(&list_at, format!("nothing opens this vault on this host — {hint} or a passphrase"));
    }
    let compression = raw.compression.unwrap_or(3);
    let compact = compact(document, raw.compact, compression, &below(at, "compact"));
    Some(VaultSettings {
        url: url?,
        recipients,
        identities,
        compression,
        threads: raw.threads.unwrap_or(0) as usize,
        compact,
    })
}

fn recipient(document: &mut Document, raw: RawRecipient, folder: &Path, at: &str) -> Option<RecipientRef> {
    let one = [raw.passphrase_file.is_some(), raw.passphrase_env.is_some(), raw.age.is_some()];
    if one.iter().filter(|set| **set).count() != 1 {
        if document.is_fine(at) {
            document.wrong_value(at, "a recipient has exactly one of `passphrase-file`, `passphrase-env` and `age`");
        }
        return None;
    }
    if let Some(key) = raw.age {
        if let Some(wrong) = wrong_age_key(&key) {
            document.wrong_value(&below(at, "age"), wrong);
            return None;
        }
        return Some(RecipientRef::Age(key));
    }
    secret(document, raw.passphrase_file, raw.passphrase_env, folder, at, "passphrase").map(RecipientRef::Passphrase)
}

/// Why a text is no public age key. Never repeats it: it may be a secret one.
fn wrong_age_key(key: &str) -> Option<&'static str> {
    let secret = key.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-");
    let public = key.len() == 62
        && key
            .strip_prefix("age1")
            .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()));
    match (secret, public) {
        (true, _) => Some("this is a secret key, and it must not stand in this file — take its public half, `age1...`"),
        (_, false) => Some("this is not a public age key — it begins with `age1` and has 62 characters"),
        _ => None,
    }
}

fn identity(document: &mut Document, raw: RawIdentity, folder: &Path, at: &str) -> Option<IdentityRef> {
    let set = [&raw.passphrase_file, &raw.passphrase_env, &raw.age_file, &raw.age_env];
    let count = set.iter().filter(|one| one.is_some()).count();
    if count != 1 {
        if document.is_fine(at) {
            let keys = "`passphrase-file`, `passphrase-env`, `age-file` and `age-env`";
            document.wrong_value(at, format!("an identity has exactly one of {keys}"));
        }
        return None;
    }
    if raw.passphrase_file.is_some() || raw.passphrase_env.is_some() {
        return secret(document, raw.passphrase_file, raw.passphrase_env, folder, at, "passphrase")
            .map(IdentityRef::Passphrase);
    }
    secret(document, raw.age_file, raw.age_env, folder, at, "age").map(IdentityRef::Age)
}

fn secret(
    document: &mut Document,
    file: Option<String>,
    env: Option<String>,
    folder: &Path,
    at: &str,
    what: &str,
) -> Option<SecretRef> {
    let (found, key) = match (file, env) {
        (Some(path), _) if path.is_empty() => (Err("the path is empty".to_owned()), format!("{what}-file")),
        (Some(path), _) => (Ok(SecretRef::File(folder.join(path))), format!("{what}-file")),
        (None, env) => (SecretRef::env(&env.unwrap_or_default()), format!("{what}-env")),
    };
    found.map_err(|wrong| document.wrong_value(&below(at, &key), wrong)).ok()
}

fn daemon(document: &mut Document, raw: RawDaemon, folder: &Path, ledger: &Path) -> DaemonSettings {
    let beside = ledger.parent().unwrap_or(Path::new(".")).join("replicate.sock");
    let socket = raw.socket.map_or(beside, |text| folder.join(text));
    if socket.as_os_str().len() > SOCKET_LIMIT {
        let text = format!("the socket's path has {} bytes, and Linux allows {SOCKET_LIMIT}", socket.as_os_str().len());
        document.wrong_value("/daemon/socket", format!("{text} — set `socket` to a shorter path"));
    }
    let stop_limit = match raw.stop_limit.as_deref().map(duration) {
        None => Duration::from_secs(30),
        Some(Ok(limit)) => limit,
        Some(Err(wrong)) => {
            document.wrong_value("/daemon/stop-limit", wrong);
            Duration::ZERO
        }
    };
    DaemonSettings {
        socket,
        stop_limit,
        log: raw.log.unwrap_or(LogForm::Text),
        parallel_runs: raw.parallel_runs.unwrap_or(2) as usize,
    }
}
