//! The log: to stderr, never with a secret. Commands are silent unless asked; the daemon tells what it does.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogForm;

/// Starts logging for a command: warnings, with `-v` more, with `-vv` everything. `REPLICATE_LOG` overrides.
pub fn for_command(verbose: u8) {
    let level = match verbose {
        0 => "error",
        1 => "info,sled=warn",
        _ => "debug,sled=info,hyper=info",
    };
    start(level, LogForm::Text);
}

/// Starts logging for the daemon.
pub fn for_daemon(verbose: u8, form: LogForm) {
    let level = if verbose == 0 { "info,sled=warn" } else { "debug,sled=info,hyper=info" };
    start(level, form);
}

fn start(level: &str, form: LogForm) {
    let filter = EnvFilter::try_from_env("REPLICATE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let builder = builder.with_target(false).with_ansi(std::io::stderr().is_terminal());
    // a second start in the same process (tests) keeps the first
    let _ = match form {
        LogForm::Text => builder.try_init(),
        LogForm::Json => builder.json().try_init(),
    };
}
