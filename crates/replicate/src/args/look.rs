//! Arguments of the commands that read a point or a file without a restore.

use std::path::PathBuf;

use clap::Args;

use super::FormatArg;

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A disk image, a point, or a server: then its newest verified point
    #[arg(value_name = "FILE, POINT or SERVER")]
    pub what: String,
    /// Only this disk of the point
    #[arg(long)]
    pub disk: Option<String>,
    /// Only from this replica of the point: vault:NAME or SITE
    #[arg(long, value_name = "PLACE")]
    pub from: Option<String>,
    /// Format of the file [default: by its first bytes, which is then said]
    #[arg(long)]
    pub format: Option<FormatArg>,
}

/// Arguments of `convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// The image to read
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// The file to write, which must not exist
    #[arg(value_name = "DST")]
    pub target: PathBuf,
    /// Format of the source [default: by its first bytes, which is then said]
    #[arg(long)]
    pub source_format: Option<FormatArg>,
    /// Format of the target [default: by its name]
    #[arg(long)]
    pub format: Option<FormatArg>,
}

/// Arguments of `nbd`.
#[derive(Debug, Args)]
pub struct NbdArgs {
    /// A point, or a server: then its newest verified point
    #[arg(value_name = "POINT or SERVER")]
    pub point: String,
    /// Only this disk [default: all, each under its name]
    #[arg(long)]
    pub disk: Option<String>,
    /// Only from this replica: vault:NAME or SITE
    #[arg(long, value_name = "PLACE")]
    pub from: Option<String>,
    /// Listen at this Unix socket
    #[arg(long, value_name = "PATH", required_unless_present = "listen", conflicts_with = "listen")]
    pub socket: Option<PathBuf>,
    /// Listen at this loopback address: 127.0.0.1:10809
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<std::net::SocketAddr>,
}
