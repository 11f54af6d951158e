//! `replicate init`: a starter configuration, or a vault.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Clock, Error, Kind, Result};

use super::{Context, Outcome, vault};
use crate::args::InitArgs;
use crate::exit;
use crate::wiring::{self, SystemClock};

const SETTINGS: &str = include_str!("../../starter/replicate.toml");
const POLICY: &str = include_str!("../../starter/servers.toml");

/// Writes the files that are not there yet, or creates a vault.
pub async fn run(context: &Context, args: InitArgs) -> Outcome {
    if let Some(name) = args.vault {
        return create(context, &name).await;
    }
    let files = [(args.folder.join("replicate.toml"), SETTINGS), (args.folder.join("policies/servers.toml"), POLICY)];
    if let Some((path, _)) = files.iter().find(|(path, _)| path.exists()) {
        let error = Error::new(Kind::Exists, format!("`{}` exists already", path.display()));
        return Err(error.hint("nothing was written; choose another folder with `replicate init FOLDER`").into());
    }
    let mut written = Vec::new();
    for (path, text) in &files {
        write(path, text)?;
        written.push(path.display().to_string());
    }
    context.printer.result(&serde_json::json!({ "written": written }), |_| {
        let lines: String = written.iter().map(|path| format!("wrote {path}\n")).collect();
        lines + "\nnext: edit them, then `replicate check`, `replicate init --vault main`, `replicate doctor`\n"
    });
    Ok(exit::DONE)
}

fn write(path: &PathBuf, text: &str) -> Result<()> {
    let wrong = |source| Error::io(format!("cannot write `{}`", path.display()), source);
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(wrong)?;
    let mut file = std::fs::File::create_new(path).map_err(wrong)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(wrong)
}

async fn create(context: &Context, name: &str) -> Outcome {
    let settings = context.settings()?;
    let name = vault(&settings, name)?;
    let Some(wanted) = settings.vaults.get(&name) else { return Ok(exit::USAGE) };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let created = wiring::create_vault(&name, wanted, &clock).await?;
    let recipients = created.recipients().await?;
    let value = serde_json::json!({ "vault": name, "place": created.describe(), "recipients": recipients });
    context.printer.result(&value, |_| {
        let count = crate::output::human::count(recipients.len(), "recipient");
        format!("created vault {name} at {} for {count}\n", created.describe())
    });
    if recipients.len() == 1 {
        context.printer.remark("hint: add a second recipient that is kept away from this host: `replicate key add`");
    }
    Ok(exit::DONE)
}
