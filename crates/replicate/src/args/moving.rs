//! What may be typed about moves.

use clap::{Args, Subcommand};

/// Arguments of `restore` that only a move has.
#[derive(Debug, Args)]
pub struct FinalArgs {
    /// Move it: stop the server, capture it a last time, launch that; the old server stays off until `replicate migrate confirm`
    #[arg(long = "final", conflicts_with_all = ["drill", "at", "point", "from", "format", "disk", "launch", "no_launch"])]
    pub last: bool,
    /// With --final: how long its system may take to shut down
    #[arg(long, value_name = "TIME", default_value = "5m", requires = "last")]
    pub stop_limit: String,
    /// With --final: cut its power after that; else it is left running
    #[arg(long, requires = "last")]
    pub force: bool,
    /// With --final: leave the server off if the move fails [default: it is started again]
    #[arg(long, requires = "last")]
    pub stay_off: bool,
    /// With --final: the policy that captures it [default: one that covers it]
    #[arg(long, value_name = "NAME", requires = "last")]
    pub policy: Option<String>,
}

/// Arguments of `migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// What to do
    #[command(subcommand)]
    pub command: MigrateCommand,
}

/// What can be done with moves.
#[derive(Debug, Subcommand)]
pub enum MigrateCommand {
    /// List all moves and how they stand
    Status,
    /// The new server is the server from now on; tells what can be deleted
    Confirm {
        /// The server that was moved
        server: String,
    },
    /// Back to the old server: the new one is stopped, then the old one is started
    Rollback {
        /// The server that was moved
        server: String,
        /// Destroy the new server, with what it wrote, instead of keeping it stopped
        #[arg(long)]
        destroy: bool,
    },
}
