//! What a policy file may say: the types that its JSON Schema is generated from.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// A policy of replicate: which servers, when, to where, kept how long, proven how often. The file's name is the
/// policy's name.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(title = "A policy of replicate")]
pub struct RawPolicy {
    /// Which servers.
    #[schemars(required)]
    pub select: Option<RawSelect>,
    /// When. Without it, the policy runs only by `replicate run`.
    pub schedule: Option<RawSchedule>,
    /// How servers are captured.
    pub capture: Option<RawCapture>,
    /// To where; each destination gets every restore point.
    #[schemars(required)]
    pub replicate: Option<Vec<RawDestination>>,
    /// What is kept. Default: everything, for ever.
    pub keep: Option<RawKeep>,
    /// What must be true; `replicate status` measures against it.
    pub objectives: Option<RawObjectives>,
    /// How restores are proven.
    pub drill: Option<RawDrill>,
}

/// Which servers a policy covers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawSelect {
    /// At which site.
    #[schemars(required)]
    pub site: Option<String>,
    /// Names with `*` and `?`; a server must fit one of them. Default: every server of the site.
    pub servers: Option<Vec<String>>,
    /// Tags that a server must carry, all of them.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// What to do about occurrences that were missed while the daemon was down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawCatchUp {
    /// Forget them.
    None,
    /// Run once, however many were missed.
    Once,
}

/// When a policy runs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawSchedule {
    /// A cron expression (`0 3 * * *`) or an alias (`@daily`).
    #[schemars(required)]
    pub cron: Option<String>,
    /// IANA time zone (`Asia/Shanghai`). Default: `UTC`.
    pub timezone: Option<String>,
    /// Spreads the servers' starts over this long, `10m`. Default: none.
    pub jitter: Option<String>,
    /// What to do about missed occurrences. Default: `once`.
    pub catch_up: Option<RawCatchUp>,
}

/// A level of consistency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawConsistency {
    /// As after a power cut, all disks at one instant.
    Crash,
    /// File systems are frozen by the guest agent for a moment.
    Filesystem,
    /// The application's own hooks run around the freeze.
    Application,
}

/// How servers are captured.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawCapture {
    /// The level wanted. Default: `filesystem`.
    pub consistency: Option<RawConsistency>,
    /// Fail where the level cannot be reached, instead of degrading with a warning. Default: false.
    pub required: Option<bool>,
    /// Command and arguments, run on this host before the freeze; only with `application`.
    pub before: Option<Vec<String>>,
    /// Command and arguments, run on this host after the thaw; only with `application`.
    pub after: Option<Vec<String>>,
    /// The longest that a guest may stay frozen, at most `10m`. Default: `10s`.
    pub freeze_limit: Option<String>,
}

/// How bytes come to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawVia {
    /// Whatever is cheaper.
    Auto,
    /// The provider copies the image from another destination of the policy; nothing passes through this host.
    Relay,
    /// Through this host, only what the destination lacks.
    Blocks,
}

/// Who may see an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawVisibility {
    /// Its owner.
    Private,
    /// Its owner, and whom it is shared with.
    Shared,
    /// Everybody who knows its id.
    Community,
    /// Everybody.
    Public,
}

/// Where images are published, for others to make servers from.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawGallery {
    /// The gallery's name, in the site's resource group.
    #[schemars(required)]
    pub name: Option<String>,
    /// Regions beside the site's own.
    pub regions: Option<Vec<String>>,
    /// To be had at once, in the site's own region alone: it leans on the image instead of being a copy. Default: false.
    pub shallow: Option<bool>,
}

/// Where replicas go. What is said of images is possible where the site's provider has it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawDestination {
    /// `vault:NAME` for an archive, or the name of a site for a bootable image.
    #[schemars(required)]
    pub to: Option<String>,
    /// How bytes come there. Default: `auto`.
    pub via: Option<RawVia>,
    /// Name of the images, with `{server}`, `{point}`, `{policy}` and `{time}`. Default: the program's own.
    pub name: Option<String>,
    /// Tags of the images, beside the program's own.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Who may see the images. Default: the provider's.
    pub visibility: Option<RawVisibility>,
    /// Projects, accounts or subscriptions that may use the images.
    pub share: Option<Vec<String>>,
    /// Protects the images from being deleted by accident; retention takes the protection off before it deletes.
    /// Default: false.
    pub protected: Option<bool>,
    /// For so long nobody can delete the images, retention included (`30d`).
    pub immutability: Option<String>,
    /// The key that the images must be encrypted with: that of the site (`kms-key`, `disk-encryption-set`).
    pub encryption: Option<String>,
    /// Takes older images of a server off people's lists once a newer one is verified. Default: false.
    pub hide_older: Option<bool>,
    /// The provider's stores that the images lie in, and no others.
    pub stores: Option<Vec<String>>,
    /// Where the images are published once they are verified.
    pub gallery: Option<RawGallery>,
}

/// Either rules or a word.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RawKeep {
    /// Rules; a point is kept if any of them keeps it.
    Rules(RawKeepRules),
    /// A word.
    Word(RawKeepWord),
}

/// Keep without rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawKeepWord {
    /// Keep everything.
    Forever,
}

/// Rules of retention. Only verified points count, and the last one is never deleted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawKeepRules {
    /// The newest so many.
    pub last: Option<u32>,
    /// The newest of each of so many hours that have one.
    pub hourly: Option<u32>,
    /// The newest of each of so many days.
    pub daily: Option<u32>,
    /// The newest of each of so many ISO weeks.
    pub weekly: Option<u32>,
    /// The newest of each of so many months.
    pub monthly: Option<u32>,
    /// The newest of each of so many years.
    pub yearly: Option<u32>,
    /// Everything younger than this (`14d`), counted from the newest good point.
    pub within: Option<String>,
}

/// What must be true.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawObjectives {
    /// Longest acceptable age of the newest verified point (`24h`).
    pub rpo: Option<String>,
    /// Longest acceptable time to restore (`30m`).
    pub rto: Option<String>,
    /// Longest acceptable age of the newest proof (`7d`).
    pub proof: Option<String>,
}

/// How restores are proven.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawDrill {
    /// Site to boot at. Default: the first one that can.
    pub site: Option<String>,
    /// Checks after the boot, in order.
    #[serde(default)]
    pub probes: Vec<RawProbe>,
    /// The longest that a drill may take until the last check. Default: `10m`.
    pub limit: Option<String>,
}

/// Kind of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawProbeKind {
    /// The console shows `text`.
    Console,
    /// The TCP `port` accepts a connection.
    Tcp,
    /// An HTTP request to `port` and `path` is answered below 400, with `text` in the body if given.
    Http,
    /// `command` ends with code 0 in the guest, and prints `text` if given.
    Command,
}

/// One check of a drill.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawProbe {
    /// Kind of the check.
    #[schemars(required)]
    pub kind: Option<RawProbeKind>,
    /// What must be seen: needed for `console`, possible for `http` and `command`.
    pub text: Option<String>,
    /// The guest's port: for `tcp` and `http`.
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Path and query: for `http`. Default: `/`.
    pub path: Option<String>,
    /// Command and arguments inside the guest: for `command`.
    pub command: Option<Vec<String>>,
}
