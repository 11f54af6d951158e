//! `replicate key`: who can open a vault. Needs no ledger: a key must work on a fresh machine.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use model::{Clock, VaultName};
use vault::{RecipientInfo, Vault};

use super::{Context, Outcome, Stop, absolute, vault};
use crate::args::{KeyArgs, KeyCommand};
use crate::config::{IdentityRef, RecipientRef, SecretRef, Settings};
use crate::exit;
use crate::output::human::count;
use crate::wiring::{self, SystemClock};

/// Lists, adds, removes or tests.
pub async fn run(context: &Context, args: KeyArgs) -> Outcome {
    let settings = context.settings()?;
    match args.command {
        KeyCommand::List { vault: name } => {
            let recipients = open(&settings, &vault(&settings, &name)?).await?.recipients().await?;
            context.printer.result(&recipients, |recipients| recipients.iter().map(line).collect());
        }
        KeyCommand::Add { vault: name, passphrase_file, passphrase_env, age } => {
            let name = vault(&settings, &name)?;
            let reference = match (secret(passphrase_file, passphrase_env)?, age) {
                (Some(secret), _) => RecipientRef::Passphrase(secret),
                (None, age) => RecipientRef::Age(age.unwrap_or_default()),
            };
            let recipient = wiring::recipient(&reference, &name)?;
            let added = open(&settings, &name).await?.add_recipient(&recipient).await?;
            context.printer.result(&added, |added| format!("added {}", line(added)));
            context
                .printer
                .remark(&format!("try it with `replicate key test {name}`, and keep it in the configuration"));
        }
        KeyCommand::Remove { vault: name, id } => {
            open(&settings, &vault(&settings, &name)?).await?.remove_recipient(&id).await?;
            context.printer.result(&serde_json::json!({ "removed": id }), |_| format!("removed {id}\n"));
        }
        KeyCommand::Test { vault: name, passphrase_file, passphrase_env, age_file } => {
            let name = vault(&settings, &name)?;
            return test(context, settings, name, secret(passphrase_file, passphrase_env)?, age_file).await;
        }
    }
    Ok(exit::DONE)
}

/// The escrow test: opens the vault with nothing but the given key, and reads the newest point's description.
async fn test(
    context: &Context,
    mut settings: Settings,
    name: VaultName,
    passphrase: Option<SecretRef>,
    age: Option<PathBuf>,
) -> Outcome {
    let given = match (passphrase, age) {
        (Some(secret), _) => Some(IdentityRef::Passphrase(secret)),
        (None, Some(path)) => Some(IdentityRef::Age(SecretRef::File(absolute(&path)?))),
        (None, None) => None,
    };
    if let (Some(identity), Some(vault)) = (given, settings.vaults.get_mut(&name)) {
        vault.identities = vec![identity];
    }
    let points = open(&settings, &name).await?.points().await?;
    let text = match points.last() {
        Some(point) => format!("the newest is {} of {}", point.id, point.server),
        None => "nothing was stored yet".to_owned(),
    };
    let value = serde_json::json!({ "vault": name, "points": points.len() });
    context
        .printer
        .result(&value, |_| format!("the key opens vault {name}: {}, {text}\n", count(points.len(), "point")));
    Ok(exit::DONE)
}

fn secret(file: Option<PathBuf>, env: Option<String>) -> Result<Option<SecretRef>, Stop> {
    let invalid = |text: String| Stop::from(model::Error::new(model::Kind::Invalid, text));
    match (file, env) {
        (Some(path), _) => Ok(Some(SecretRef::File(absolute(&path)?))),
        (None, Some(name)) => SecretRef::env(&name).map(Some).map_err(invalid),
        (None, None) => Ok(None),
    }
}

async fn open(settings: &Settings, name: &VaultName) -> model::Result<Vault> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let Some(vault) = settings.vaults.get(name) else {
        return Err(wiring::unknown("vault", name.as_str(), settings.vaults.keys().map(ToString::to_string)));
    };
    wiring::open_vault(name, vault, &clock).await
}

fn line(recipient: &RecipientInfo) -> String {
    let mut text = format!("{}  {:<10}", recipient.id, recipient.kind);
    if let Some(public) = &recipient.public {
        let _ = write!(text, "  {public}");
    }
    text.trim_end().to_owned() + "\n"
}
