//! `replicate completions`: a completion script for a shell.

use clap::CommandFactory;

use super::Outcome;
use crate::args::{Cli, CompletionsArgs};
use crate::{exit, output};

/// Prints the script.
pub fn run(args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "replicate", &mut script);
    output::data(&String::from_utf8_lossy(&script));
    Ok(exit::DONE)
}
