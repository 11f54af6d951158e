//! `replicate doctor`: looks at everything that a run will need, live, and says what is wrong with it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use cloud::conformance::{self, Verdict};
use model::{Clock, Error, Kind, OwnerId, RunId, ServerName, SiteName, VaultName};
use serde::Serialize;
use vault::bucket::conformance::{Effort, run as bucket_suite};

use super::{Context, Outcome, site, vault};
use crate::args::DoctorArgs;
use crate::config::{SecretRef, Settings, SiteSettings};
use crate::output::human::count;
use crate::wiring::{self, SystemClock};
use crate::{client, exit};

/// The longest that one look may take.
const LIMIT: Duration = Duration::from_secs(30);

/// What a look found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Finding {
    /// Of what: `site lab`, `vault main`, `ledger`.
    subject: String,
    /// What was looked at.
    check: String,
    /// How it is.
    verdict: Verdict,
    /// Numbers, or what is wrong.
    detail: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip)]
    kind: Option<Kind>,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn note(&mut self, subject: &str, check: &str, result: Result<String, Error>) -> bool {
        let (subject, check) = (subject.to_owned(), check.to_owned());
        let passed = result.is_ok();
        self.0.push(match result {
            Ok(detail) => Finding { subject, check, verdict: Verdict::Passed, detail, hint: None, kind: None },
            Err(error) => Finding {
                subject,
                check,
                verdict: Verdict::Failed,
                detail: error.chain(),
                hint: error.advice().map(str::to_owned),
                kind: Some(error.kind()),
            },
        });
        passed
    }
}

/// Looks at everything, or at one site or vault.
pub async fn run(context: &Context, args: DoctorArgs) -> Outcome {
    let settings = context.settings()?;
    let mut findings = Findings::default();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (only_site, only_vault) = match &args.name {
        None => (None, None),
        Some(name) => match (site(&settings, name), vault(&settings, name)) {
            (Ok(site), Err(_)) => (Some(site), None),
            (Err(_), Ok(vault)) => (None, Some(vault)),
            (Ok(site), Ok(vault)) => (Some(site), Some(vault)),
            (Err(error), Err(_)) => return Err(error.into()),
        },
    };
    let all = args.name.is_none();
    if all {
        ledger(&mut findings, &settings).await;
    }
    for (name, site) in settings.sites.iter().filter(|(name, _)| all || only_site.as_ref() == Some(name)) {
        look_at_site(&mut findings, name, site, &clock, args.full).await;
    }
    for name in settings.vaults.keys().filter(|name| all || only_vault.as_ref() == Some(name)) {
        look_at_vault(&mut findings, &settings, name, &clock, args.full).await;
    }
    context.printer.result(&findings.0, |findings| text(findings));
    Ok(code(&findings.0))
}

fn code(findings: &[Finding]) -> u8 {
    let failed: Vec<&Finding> = findings.iter().filter(|finding| finding.verdict == Verdict::Failed).collect();
    match failed.as_slice() {
        [] => exit::DONE,
        some if some.iter().all(|finding| finding.kind == Some(Kind::Denied)) => exit::DENIED,
        _ => exit::FAILED,
    }
}

async fn within<T>(what: &str, work: impl Future<Output = model::Result<T>>) -> model::Result<T> {
    match tokio::time::timeout(LIMIT, work).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(Kind::Transient, format!("no answer from {what} within {} s", LIMIT.as_secs()))),
    }
}

async fn ledger(findings: &mut Findings, settings: &Settings) {
    let subject = "ledger";
    match client::connect(&settings.daemon.socket).await {
        Ok(Some(_)) => {
            let place = settings.daemon.socket.display();
            findings.note(subject, "who has it", Ok(format!("the daemon, which answers at {place}")));
        }
        Ok(None) if !settings.ledger.exists() => {
            let detail = format!("{} does not exist yet, the first run makes it", settings.ledger.display());
            findings.note(subject, "who has it", Ok(detail));
        }
        Ok(None) => {
            let opened = engine::ledger::SledLedger::open(&settings.ledger).await;
            findings.note(subject, "opens and reads", opened.map(|_| settings.ledger.display().to_string()));
        }
        Err(error) => {
            findings.note(subject, "who has it", Err(error));
        }
    }
}

async fn look_at_site(
    findings: &mut Findings,
    name: &SiteName,
    settings: &SiteSettings,
    clock: &Arc<dyn Clock>,
    full: bool,
) {
    let subject = format!("site {name}");
    let cloud = wiring::open_site(name, settings, clock);
    let (servers_at, disks, scratch) = match settings {
        SiteSettings::Qemu(qemu) => {
            let sockets = qemu.sockets.as_ref().map(|sockets| sockets.display().to_string());
            (sockets, qemu.disks.as_deref(), qemu.scratch.as_deref())
        }
        SiteSettings::OpenStack(site) => {
            (Some(format!("cloud {}", site.cloud.cloud)), None, Some(site.scratch.as_path()))
        }
        #[cfg(feature = "aws")]
        SiteSettings::Aws(site) => (Some(format!("region {}", site.region)), None, Some(site.scratch.as_path())),
        #[cfg(feature = "azure")]
        SiteSettings::Azure(site) => (Some(format!("group {} in {}", site.group, site.location)), None, None),
    };
    if let (Some(source), Some(place)) = (cloud.source(), servers_at) {
        let servers = within(&subject, source.servers()).await;
        let found = servers.map(|servers| {
            let off = servers.iter().filter(|server| server.power == cloud::Power::Off).count();
            format!("{} ({off} powered off) at {place}", count(servers.len(), "server"))
        });
        findings.note(&subject, "servers can be seen", found);
        guests(findings, &subject, source).await;
    }
    for (check, folder) in [("disks can be written", disks), ("scratch can be written", scratch)] {
        if let Some(folder) = folder {
            findings.note(&subject, check, writable(folder));
        }
    }
    let owned = within(&subject, cloud.owned()).await;
    findings.note(&subject, "what carries our tags", owned.map(|owned| count(owned.len(), "resource")));
    if full && cloud.target().is_some() {
        let probe = Probe { run: RunId::at(clock.now(), rand::random()) };
        for found in conformance::target(cloud.as_ref(), &probe).await {
            let (check, kind) = (format!("{}: {}", found.name, found.promise), None);
            let verdict = found.verdict;
            findings.0.push(Finding {
                subject: subject.clone(),
                check,
                verdict,
                detail: found.detail,
                hint: None,
                kind,
            });
        }
    }
}

/// Whose file systems a capture can freeze. Who cannot be frozen is captured all the same, and may well be meant to.
async fn guests(findings: &mut Findings, subject: &str, source: &dyn cloud::Source) {
    let found = match within(subject, source.unfrozen()).await {
        Ok(None) => return,
        Ok(Some(unfrozen)) if unfrozen.is_empty() => Ok("all that run".to_owned()),
        Ok(Some(unfrozen)) => {
            let each: Vec<String> = unfrozen.iter().map(|(server, why)| format!("{server} ({why})")).collect();
            Ok(format!("all that run but {}", each.join(", ")))
        }
        Err(error) => Err(error),
    };
    findings.note(subject, "guests can be frozen", found);
}

/// The suite of targets, on scratch of its own; no guest is touched.
struct Probe {
    run: RunId,
}

impl conformance::Probe for Probe {
    fn owner(&self) -> OwnerId {
        OwnerId::new("replicate-doctor").unwrap_or_else(|_| unreachable!("a fixed name"))
    }

    fn run(&self) -> RunId {
        self.run.clone()
    }

    fn server(&self) -> Option<ServerName> {
        None
    }
}

fn writable(folder: &std::path::Path) -> model::Result<String> {
    let within = |source| {
        Error::io(format!("cannot write to `{}`", folder.display()), source)
            .hint(format!("create it for this user: `install -d {}`", folder.display()))
    };
    // the scratch folder is made by whoever needs it first
    let existing = folder.ancestors().find(|part| part.exists()).unwrap_or(folder);
    let parent = existing == folder || folder.file_name().is_some_and(|name| name == ".scratch");
    if !parent {
        return Err(within(std::io::Error::from(std::io::ErrorKind::NotFound)));
    }
    tempfile::Builder::new().prefix(".replicate-doctor-").tempfile_in(existing).map_err(within)?;
    let free = rustix::fs::statvfs(existing).map_err(|errno| within(errno.into()))?;
    let bytes = free.f_bavail.saturating_mul(free.f_frsize);
    Ok(format!("{}, {} free", folder.display(), crate::output::human::bytes(bytes)))
}

async fn look_at_vault(
    findings: &mut Findings,
    settings: &Settings,
    name: &VaultName,
    clock: &Arc<dyn Clock>,
    full: bool,
) {
    let subject = format!("vault {name}");
    let Some(wanted) = settings.vaults.get(name) else { return };
    for reference in wanted.identities.iter().map(|identity| match identity {
        crate::config::IdentityRef::Passphrase(secret) | crate::config::IdentityRef::Age(secret) => secret,
    }) {
        findings.note(&subject, "the key can be read", readable(reference));
    }
    let opened = within(&subject, wiring::open_vault(name, wanted, clock)).await;
    let vault = match opened {
        Ok(vault) => vault,
        Err(error) => {
            findings.note(&subject, "it opens", Err(error));
            return;
        }
    };
    findings.note(&subject, "it opens", Ok(vault.describe()));
    let points = within(&subject, vault.points()).await;
    findings.note(&subject, "points can be listed", points.map(|points| count(points.len(), "point")));
    let recipients = within(&subject, vault.recipients()).await;
    let only_one = recipients.as_ref().is_ok_and(|recipients| recipients.len() == 1);
    findings.note(&subject, "who can open it", recipients.map(|recipients| count(recipients.len(), "recipient")));
    if let (true, Some(finding)) = (only_one, findings.0.last_mut()) {
        let hint = format!("add a key that is kept away from this host: `replicate key add {name} --age age1...`");
        finding.hint = Some(hint);
    }
    if full {
        let bucket = match wiring::open_bucket(wanted, clock, false).await {
            Ok(bucket) => bucket,
            Err(error) => {
                findings.note(&subject, "the bucket opens", Err(error));
                return;
            }
        };
        for found in bucket_suite(bucket, Effort::quick()).await {
            let verdict = if found.ok { Verdict::Passed } else { Verdict::Failed };
            let (subject, check) = (subject.clone(), format!("bucket: {}", found.name));
            findings.0.push(Finding { subject, check, verdict, detail: found.detail, hint: None, kind: None });
        }
    }
}

fn readable(reference: &SecretRef) -> model::Result<String> {
    reference.read("the key")?;
    if let SecretRef::File(path) = reference {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).map_err(|source| Error::io("cannot look at the key", source))?;
        if mode.permissions().mode() & 0o077 != 0 {
            return Err(Error::new(Kind::Permanent, format!("other users may read `{}`", path.display()))
                .hint(format!("`chmod 600 {}`", path.display())));
        }
    }
    Ok(reference.to_string())
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut last = "";
    for finding in findings {
        if finding.subject != last {
            let _ = writeln!(text, "{}", finding.subject);
            last = &finding.subject;
        }
        let mark = match finding.verdict {
            Verdict::Passed => "ok",
            Verdict::Failed => "FAILED",
            Verdict::Skipped => "skipped",
        };
        let _ = writeln!(text, "  {mark:<8} {}: {}", finding.check, finding.detail);
        if let Some(hint) = &finding.hint {
            let _ = writeln!(text, "           hint: {hint}");
        }
    }
    let failed = findings.iter().filter(|finding| finding.verdict == Verdict::Failed).count();
    let _ = writeln!(text, "\n{}, {failed} failed", count(findings.len(), "check"));
    text
}
