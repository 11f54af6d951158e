//! What may be typed. Only records; what it means is decided by the commands.

mod look;
mod moving;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use look::{ConvertArgs, InspectArgs, NbdArgs};
pub use moving::{FinalArgs, MigrateArgs, MigrateCommand};

/// Keeps servers recoverable anywhere: captures running servers, replicates them across sites and vaults, restores
/// any of them, and proves it.
#[derive(Debug, Parser)]
#[command(name = "replicate", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// Configuration file [default: ./replicate.toml, then /etc/replicate/replicate.toml]
    #[arg(short, long, global = true, value_name = "FILE", env = "REPLICATE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more on stderr; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Show no progress
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a starter configuration, or create a vault
    Init(InitArgs),
    /// Validate configuration and policies, offline
    Check,
    /// Look at sites, vaults and the ledger, live
    Doctor(DoctorArgs),
    /// List servers with their disks and the policies that cover them
    Servers(ServersArgs),
    /// Show what runs would do now
    Plan(PlanArgs),
    /// Run a policy now
    Run(RunArgs),
    /// Turn disk images into a restore point
    Import(ImportArgs),
    /// Per server: last point, lag, last proof, what is stuck
    Status,
    /// List restore points and their replicas
    Points(PointsArgs),
    /// Restore a server, move it, or prove that it can be restored
    Restore(RestoreArgs),
    /// See, confirm or take back what `restore --final` has moved
    Migrate(MigrateArgs),
    /// Look into a disk image or a point without booting it
    Inspect(InspectArgs),
    /// Write a disk image in another format
    Convert(ConvertArgs),
    /// Serve a point's disks as block devices, straight from the vault
    Nbd(NbdArgs),
    /// Read replicas back and check every byte
    Verify(VerifyArgs),
    /// Apply retention: mark, wait, delete
    Prune(PruneArgs),
    /// Free the space of what is no longer needed inside packs of vaults
    Compact(CompactArgs),
    /// Delete what dead runs left behind
    Sweep,
    /// Rebuild the ledger from vaults and sites
    Adopt,
    /// Manage who can open a vault
    Key(KeyArgs),
    /// Run policies by their schedules
    Daemon,
    /// Print a JSON Schema of the configuration files
    Schema(SchemaArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Folder to write to
    #[arg(default_value = ".")]
    pub folder: PathBuf,
    /// Create this vault instead, as the configuration describes it
    #[arg(long, value_name = "NAME", conflicts_with = "folder")]
    pub vault: Option<String>,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// A site or a vault [default: all]
    #[arg(value_name = "SITE or VAULT")]
    pub name: Option<String>,
    /// Also run the conformance suite, which makes and deletes small scratch resources
    #[arg(long)]
    pub full: bool,
}

/// Arguments of `servers`.
#[derive(Debug, Args)]
pub struct ServersArgs {
    /// Only this site
    pub site: Option<String>,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Only this policy
    pub policy: Option<String>,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The policy
    #[arg(required_unless_present = "due", conflicts_with = "due")]
    pub policy: Option<String>,
    /// Only this server
    #[arg(long, conflicts_with = "due")]
    pub server: Option<String>,
    /// Everything that is due by its schedule, once: for plain cron
    #[arg(long)]
    pub due: bool,
}

/// Form of a disk file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// Plain bytes, sparse
    Raw,
    /// QEMU's format
    Qcow2,
}

/// Processor architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ArchArg {
    /// 64-bit x86
    #[value(name = "x86-64", alias = "x86_64")]
    X86_64,
    /// 64-bit Arm
    Aarch64,
}

/// Firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FirmwareArg {
    /// Legacy BIOS
    Bios,
    /// UEFI
    Uefi,
}

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Disk images, in boot order
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// As which server
    #[arg(long)]
    pub server: String,
    /// To where: vault:NAME or SITE; may be repeated
    #[arg(long, required = true)]
    pub to: Vec<String>,
    /// Format of the images [default: by their names]
    #[arg(long)]
    pub format: Option<FormatArg>,
    /// Processor architecture
    #[arg(long, default_value = "x86-64")]
    pub arch: ArchArg,
    /// Firmware that boots it
    #[arg(long, default_value = "bios")]
    pub firmware: FirmwareArg,
    /// Memory, in MiB or with a unit
    #[arg(long, default_value = "1GiB")]
    pub memory: String,
    /// Processors
    #[arg(long, default_value_t = 1)]
    pub vcpus: u32,
}

/// Arguments of `points`.
#[derive(Debug, Args)]
pub struct PointsArgs {
    /// Only this server
    pub server: Option<String>,
}

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Which server
    pub server: String,
    /// The newest verified point at or before this: 2026-11-22, "2026-11-22 03:00", RFC 3339, 6h, 2d
    #[arg(long, value_name = "WHEN", conflicts_with = "point")]
    pub at: Option<String>,
    /// Exactly this point
    #[arg(long)]
    pub point: Option<String>,
    /// Only from this replica: vault:NAME or SITE
    #[arg(long, value_name = "PLACE")]
    pub from: Option<String>,
    /// How its bytes come to a site: copied by the provider, or through this host [default: whatever is nearest]
    #[arg(long, value_name = "WAY")]
    pub via: Option<ViaArg>,
    /// To where: a site, or a file (disk.qcow2, ./disk.raw)
    #[arg(long, value_name = "SITE or FILE", required_unless_present = "drill")]
    pub to: Option<String>,
    /// Format of the file [default: by its name]
    #[arg(long)]
    pub format: Option<FormatArg>,
    /// Only this disk, to a file
    #[arg(long)]
    pub disk: Option<String>,
    /// Name of the restored server [default: its own]
    #[arg(long)]
    pub name: Option<String>,
    /// Start the restored server (the default at a site)
    #[arg(long, overrides_with = "no_launch")]
    pub launch: bool,
    /// Do not start the restored server
    #[arg(long, overrides_with = "launch")]
    pub no_launch: bool,
    /// Boot it on an isolated network, check it, measure, sign a proof, destroy it
    #[arg(long, conflicts_with_all = ["format", "disk", "launch", "no_launch", "name"])]
    pub drill: bool,
    /// A move
    #[command(flatten)]
    pub last: FinalArgs,
}

/// How bytes come to a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ViaArg {
    /// Copied by the provider
    Relay,
    /// Through this host
    Blocks,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Only this place: vault:NAME or SITE
    pub place: Option<String>,
    /// Only points of this server
    #[arg(long)]
    pub server: Option<String>,
    /// Only about so many percent of the data, others every time
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub sample: Option<u8>,
    /// Only what was not read for so many days
    #[arg(long, value_name = "DAYS", conflicts_with = "sample")]
    pub stale: Option<u32>,
}

/// Arguments of `prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Only show what would happen
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Only this server
    #[arg(long)]
    pub server: Option<String>,
    /// Do not free what the vaults no longer need
    #[arg(long)]
    pub no_collect: bool,
    /// Take the mark of deletion off this point
    #[arg(long, value_name = "POINT")]
    pub keep: Option<String>,
}

/// Arguments of `compact`.
#[derive(Debug, Args)]
pub struct CompactArgs {
    /// Only this vault
    pub vault: Option<String>,
    /// Only show what would happen
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Also compress again what was compressed at a lower level
    #[arg(long)]
    pub recompress: bool,
    /// Packs of whose bytes no point needs so many percent [default: as configured, 25]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub waste: Option<u8>,
    /// Level of zstd of what is written [default: as configured, 9]
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(1..=19))]
    pub level: Option<i32>,
}

/// Arguments of `key`.
#[derive(Debug, Args)]
pub struct KeyArgs {
    /// What to do
    #[command(subcommand)]
    pub command: KeyCommand,
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List who can open the vault
    List {
        /// The vault
        vault: String,
    },
    /// Let one more open the vault
    Add {
        /// The vault
        vault: String,
        /// File with a passphrase
        #[arg(long, group = "who")]
        passphrase_file: Option<PathBuf>,
        /// Environment variable with a passphrase
        #[arg(long, group = "who")]
        passphrase_env: Option<String>,
        /// Public age key
        #[arg(long, group = "who", required_unless_present_any = ["passphrase_file", "passphrase_env"])]
        age: Option<String>,
    },
    /// Let one no longer open the vault; never the last
    Remove {
        /// The vault
        vault: String,
        /// Id, as `key list` shows it
        id: String,
    },
    /// Try whether a key opens the vault: the escrow test
    Test {
        /// The vault
        vault: String,
        /// File with a passphrase [default: what the configuration says]
        #[arg(long, group = "what")]
        passphrase_file: Option<PathBuf>,
        /// Environment variable with a passphrase
        #[arg(long, group = "what")]
        passphrase_env: Option<String>,
        /// File with a secret age key
        #[arg(long, group = "what")]
        age_file: Option<PathBuf>,
    },
}

/// Which schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaArg {
    /// Of replicate.toml
    Settings,
    /// Of a policy
    Policy,
}

/// Arguments of `schema`.
#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Of which file
    #[arg(default_value = "settings")]
    pub which: SchemaArg,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}
