//! The commands, one file each, and what they share: settings, the request, the exit code.

mod check;
mod compact;
mod completions;
mod convert;
mod daemon;
mod doctor;
mod import;
mod init;
mod inspect;
mod key;
mod migrate;
mod nbd;
mod point;
mod points;
mod prune;
mod restore;
mod run;
mod schema;
mod servers;
mod verify;

use std::path::PathBuf;

pub use inspect::Inspected;
use model::{Error, Kind, Place, Result, SiteName, VaultName};

use crate::args::{Cli, Command};
use crate::config::{self, FileMistakes, Refusal, Settings};
use crate::output::{self, ErrorForm, Printer};
use crate::request::Request;
use crate::{exit, logs, session, wiring};

/// Why a command stopped.
pub enum Stop {
    /// An error, and the exit code if it is not the usual one of its kind.
    Error(Error, Option<u8>),
    /// Mistakes in the configuration.
    Mistakes(Vec<FileMistakes>),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Error(error, None)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unreadable(error) => Stop::Error(error, Some(exit::USAGE)),
            Refusal::Mistakes(files) => Stop::Mistakes(files),
        }
    }
}

/// How a command ends: an exit code.
pub type Outcome = Result<u8, Stop>;

/// What every command needs.
#[derive(Debug, Clone)]
pub struct Context {
    /// As given by `-c`.
    pub config: Option<PathBuf>,
    /// How to print.
    pub printer: Printer,
    /// How often `-v` was given.
    pub verbose: u8,
}

impl Context {
    /// Finds, reads and checks the configuration.
    pub fn settings(&self) -> Result<Settings, Stop> {
        let file = config::find(self.config.as_deref())?;
        Ok(config::load(&file)?)
    }

    /// Carries out a request and prints the answer.
    pub async fn answer(&self, settings: &Settings, request: Request) -> Outcome {
        let response = match session::ask(settings, self.printer, &request).await {
            Ok(response) => response,
            Err(error) => {
                let busy = error.to_string() == session::BUSY;
                let code = if busy { exit::ALREADY_RUNNING } else { request.exit_code(error.kind()) };
                return Err(Stop::Error(error, Some(code)));
            }
        };
        let code = response.exit_code();
        self.printer.result(&response, output::text::response);
        Ok(code)
    }
}

/// Runs what was typed; returns the exit code.
pub async fn run(cli: Cli, printer: Printer) -> u8 {
    let context = Context { config: cli.config, printer, verbose: cli.verbose };
    if !matches!(cli.command, Command::Daemon) {
        logs::for_command(cli.verbose);
    }
    match dispatch(&context, cli.command).await {
        Ok(code) => code,
        Err(Stop::Error(error, code)) => {
            let code = code.unwrap_or_else(|| exit::of_kind(error.kind()));
            printer.error(&ErrorForm::from(&error), code);
            code
        }
        Err(Stop::Mistakes(files)) => {
            if printer.json {
                printer.json(&serde_json::json!({ "mistakes": files }));
            } else {
                output::note(&output::error::mistakes(&files));
            }
            exit::USAGE
        }
    }
}

async fn dispatch(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Init(args) => init::run(context, args).await,
        Command::Check => check::run(context),
        Command::Doctor(args) => doctor::run(context, args).await,
        Command::Servers(args) => servers::servers(context, args).await,
        Command::Plan(args) => run::plan(context, args).await,
        Command::Run(args) => run::run(context, args).await,
        Command::Import(args) => import::run(context, args).await,
        Command::Status => context.answer(&context.settings()?, Request::Status).await,
        Command::Points(args) => points::run(context, args).await,
        Command::Restore(args) => restore::run(context, args).await,
        Command::Migrate(args) => migrate::run(context, args).await,
        Command::Inspect(args) => inspect::run(context, args).await,
        Command::Convert(args) => convert::run(context, args).await,
        Command::Nbd(args) => nbd::run(context, args).await,
        Command::Verify(args) => verify::run(context, args).await,
        Command::Prune(args) => prune::run(context, args).await,
        Command::Compact(args) => compact::run(context, args).await,
        Command::Sweep => context.answer(&context.settings()?, Request::Sweep).await,
        Command::Adopt => context.answer(&context.settings()?, Request::Adopt).await,
        Command::Key(args) => key::run(context, args).await,
        Command::Daemon => daemon::run(context).await,
        Command::Schema(args) => schema::run(context, &args),
        Command::Completions(args) => completions::run(&args),
    }
}

/// A site of the configuration.
fn site(settings: &Settings, name: &str) -> Result<SiteName> {
    match settings.sites.keys().find(|site| site.as_str() == name) {
        Some(site) => Ok(site.clone()),
        None => Err(wiring::unknown("site", name, settings.sites.keys().map(ToString::to_string))),
    }
}

/// A vault of the configuration; `vault:main` and `main` are the same.
fn vault(settings: &Settings, name: &str) -> Result<VaultName> {
    let name = name.strip_prefix("vault:").unwrap_or(name);
    match settings.vaults.keys().find(|vault| vault.as_str() == name) {
        Some(vault) => Ok(vault.clone()),
        None => Err(wiring::unknown("vault", name, settings.vaults.keys().map(ToString::to_string))),
    }
}

/// `vault:NAME` or a site.
fn place(settings: &Settings, text: &str) -> Result<Place> {
    if text.starts_with("vault:") {
        return vault(settings, text).map(Place::Vault);
    }
    match site(settings, text) {
        Ok(site) => Ok(Place::Site(site)),
        Err(_) if vault(settings, text).is_ok() => {
            Err(Error::new(Kind::Invalid, format!("`{text}` is not a site")).hint(format!("write `vault:{text}`")))
        }
        Err(error) => Err(error),
    }
}

/// The path as the daemon, which has another working folder, must see it.
fn absolute(path: &std::path::Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|source| Error::io(format!("cannot use the path `{}`", path.display()), source))
}
