//! Which accelerator really works on this host: found out by booting a kernel under a deadline, and remembered.
//!
//! The device file proves nothing: there are hosts with a `/dev/kvm` that initialises and then hangs every stock kernel
//! for ever (a software KVM inside a virtual machine). So the probe boots one until it says that it is up.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use model::{Error, Result};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::TargetConfig;
use super::layout::{make_folder, read_json, write_json};

/// How instances run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// KVM where it works, emulation otherwise.
    Auto,
    /// KVM.
    Kvm,
    /// Emulation.
    Tcg,
}

/// A kernel under a working KVM takes one or two seconds until it has no root file system; twenty leave room for a
/// loaded host.
const DEADLINE: Duration = Duration::from_secs(20);

/// The answer of an earlier probe.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    /// The host's kernel and QEMU: another one is probed anew.
    host: String,
    kernel: Option<PathBuf>,
    accelerator: Accelerator,
    reason: String,
}

/// The accelerator to use. Never [`Accelerator::Auto`].
pub(super) async fn choose(config: &TargetConfig, root: &Path) -> Result<Accelerator> {
    if config.accelerator != Accelerator::Auto {
        return Ok(config.accelerator);
    }
    if std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accelerator::Tcg);
    }
    let kernel = config.probe_kernel.clone().or_else(host_kernel);
    let host = host(config).await?;
    let note = root.join(".accelerator.json");
    // an unreadable note is no trouble: the probe is repeated
    if let Ok(Some(known)) = read_json::<Answer>(&note)
        && known.host == host
        && known.kernel == kernel
    {
        return Ok(known.accelerator);
    }
    let (accelerator, reason) = match &kernel {
        None => (Accelerator::Tcg, "no kernel to try KVM with was found in /boot".to_owned()),
        Some(kernel) => boot(config, kernel, root).await?,
    };
    tracing::info!(?accelerator, reason, "probed the accelerator");
    write_json(&note, &Answer { host, kernel, accelerator, reason }, "qemu.accelerator")?;
    Ok(accelerator)
}

async fn host(config: &TargetConfig) -> Result<String> {
    let output =
        Command::new(&config.program).arg("--version").output().await.map_err(|error| missing(config, error))?;
    let version = String::from_utf8_lossy(&output.stdout);
    let version = version.lines().next().unwrap_or_default();
    let kernel = std::fs::read_to_string("/proc/version").unwrap_or_default();
    Ok(format!("{}; {version}", kernel.trim()))
}

/// QEMU could not be run at all.
pub(super) fn missing(config: &TargetConfig, error: std::io::Error) -> Error {
    Error::io(format!("cannot run {}", config.program.display()), error)
        .hint("install QEMU (Debian: apt-get install qemu-system-x86)")
}

/// The newest kernel in `/boot` that may be read.
fn host_kernel() -> Option<PathBuf> {
    let found = glob::glob("/boot/vmlinuz*").ok()?;
    found.flatten().filter(|path| std::fs::File::open(path).is_ok()).max()
}

/// Boots a kernel without a root file system under KVM: it works if the kernel comes as far as missing that.
async fn boot(config: &TargetConfig, kernel: &Path, root: &Path) -> Result<(Accelerator, String)> {
    make_folder(root)?;
    let log = root.join(".accelerator.log");
    let mut child = Command::new(&config.program)
        .args(["-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults", "-no-reboot", "-display", "none"])
        .arg("-serial")
        .arg(format!("file:{}", log.display().to_string().replace(',', ",,")))
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", "console=ttyS0 panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| missing(config, error))?;
    let until = Instant::now() + DEADLINE;
    let up = loop {
        let text = std::fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        // both come late, after interrupts, timers and devices were set up
        if text.contains("Kernel panic") || text.contains("Freeing unused kernel") {
            break true;
        }
        let ended = child.try_wait().map_err(|error| Error::io("cannot watch the accelerator probe", error))?;
        if ended.is_some() || Instant::now() >= until {
            break false;
        }
        sleep(Duration::from_millis(100)).await;
    };
    // the probe has told what it could
    let _ = child.kill().await;
    let _ = std::fs::remove_file(&log);
    Ok(if up {
        (Accelerator::Kvm, format!("{} booted under KVM", kernel.display()))
    } else {
        (Accelerator::Tcg, format!("{} did not boot under KVM within {} s", kernel.display(), DEADLINE.as_secs()))
    })
}
