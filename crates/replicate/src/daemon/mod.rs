//! The daemon: one engine, its schedule, and the API on a Unix socket.
//!
//! It holds the ledger's lock as long as it lives, so a socket that it finds was left by a dead one. SIGTERM and
//! SIGINT: nothing new begins, what runs may end within `stop-limit`, the rest is parked: dropped where it stands, and
//! resumed from the ledger by the next start. SIGHUP: the configuration is read again, wholly or not at all; what runs goes on as it began.

mod api;
mod hub;
mod schedule;
mod systemd;

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use engine::Engine;
use model::{Error, Result};
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{self, Refusal, Settings};
use crate::wiring;

pub use hub::Hub;

/// What all parts of the daemon share.
pub struct State {
    /// The engine in force: a reload puts another one in its place.
    engine: RwLock<Arc<Engine>>,
    retention_every: RwLock<Duration>,
    /// Where its events go.
    pub hub: Arc<Hub>,
    /// Cancelled when nothing new may begin.
    pub stopping: CancellationToken,
    /// Cancelled when what still runs is parked.
    pub park: CancellationToken,
    /// Everything that must end, or be parked, before the daemon does.
    pub work: TaskTracker,
}

impl State {
    /// The engine in force now.
    pub fn engine(&self) -> Arc<Engine> {
        self.engine.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often retention is applied, now.
    pub fn retention_every(&self) -> Duration {
        *self.retention_every.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs work that a stop waits for, and parks after its limit.
    pub fn begin(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let park = self.park.clone();
        self.work.spawn(async move {
            tokio::select! {
                () = work => {}
                () = park.cancelled() => tracing::info!("parked: the next start goes on with it"),
            }
        });
    }
}

/// Serves until SIGTERM or SIGINT.
pub async fn serve(settings: Settings) -> Result<()> {
    let listen = |kind| signal(kind).map_err(|source| Error::io("cannot listen for signals", source));
    let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut hup = listen(SignalKind::hangup())?;
    let hub = Arc::new(Hub::default());
    let engine = Arc::new(wiring::engine(&settings, Arc::clone(&hub) as _).await?);
    let state = Arc::new(State {
        engine: RwLock::new(engine),
        retention_every: RwLock::new(settings.retention_every),
        hub,
        stopping: CancellationToken::new(),
        park: CancellationToken::new(),
        work: TaskTracker::new(),
    });
    let listener = bind(&settings)?;
    let server = tokio::spawn(api::serve(listener, Arc::clone(&state)));
    let schedule = tokio::spawn(schedule::run(Arc::clone(&state), settings.daemon.parallel_runs));
    tracing::info!(
        socket = %settings.daemon.socket.display(),
        policies = settings.policies.len(),
        owner = %state.engine().owner(),
        "the daemon is ready"
    );
    systemd::ready();
    tend(&state, &mut term, &mut int, &mut hup, settings.clone()).await;
    stop(&state, &settings).await;
    schedule.abort();
    server.abort();
    let _ = std::fs::remove_file(&settings.daemon.socket);
    tracing::info!("the daemon has stopped");
    Ok(())
}

/// Waits for signals, and feeds the watchdog meanwhile.
async fn tend(state: &Arc<State>, term: &mut Signal, int: &mut Signal, hup: &mut Signal, mut settings: Settings) {
    let mut pulse = tokio::time::interval(systemd::watchdog().unwrap_or(Duration::from_secs(10)));
    loop {
        tokio::select! {
            _ = term.recv() => return,
            _ = int.recv() => return,
            _ = hup.recv() => reload(state, &mut settings),
            _ = pulse.tick() => systemd::alive(&status_line(state)),
        }
    }
}

fn status_line(state: &State) -> String {
    match state.work.len() {
        0 => "waiting for the next run".to_owned(),
        number => format!("{number} at work"),
    }
}

/// Takes a new configuration, wholly or not at all.
fn reload(state: &State, settings: &mut Settings) {
    systemd::reloading();
    match config::load(&settings.file) {
        Err(Refusal::Unreadable(error)) => tracing::error!(why = error.chain(), "kept the old configuration"),
        Err(Refusal::Mistakes(files)) => {
            for (file, mistake) in files.iter().flat_map(|file| file.mistakes.iter().map(move |m| (&file.file, m))) {
                let (line, column) = (mistake.line, mistake.column);
                tracing::error!(file, line, column, why = mistake.text, "kept the old configuration");
            }
        }
        Ok(new) if new.needs_restart(settings) => {
            tracing::error!("kept the old configuration: `ledger` or `[daemon]` changed, restart the daemon for that");
        }
        Ok(new) => {
            let engine = Arc::new(wiring::rewired(&state.engine(), &new));
            *state.engine.write().unwrap_or_else(PoisonError::into_inner) = engine;
            *state.retention_every.write().unwrap_or_else(PoisonError::into_inner) = new.retention_every;
            let (sites, vaults, policies) = (new.sites.len(), new.vaults.len(), new.policies.len());
            tracing::info!(sites, vaults, policies, "the new configuration is in force");
            *settings = new;
        }
    }
    systemd::ready();
}

/// Lets what runs end within the limit, and parks the rest.
async fn stop(state: &State, settings: &Settings) {
    systemd::stopping();
    state.stopping.cancel();
    state.work.close();
    let (running, limit) = (state.work.len(), settings.daemon.stop_limit);
    if running > 0 {
        tracing::info!(running, limit_seconds = limit.as_secs(), "stopping: what runs may end within the limit");
    }
    if tokio::time::timeout(limit, state.work.wait()).await.is_err() {
        state.park.cancel();
        state.work.wait().await;
    }
}

fn bind(settings: &Settings) -> Result<UnixListener> {
    let socket = &settings.daemon.socket;
    let wrong = |source| Error::io(format!("cannot listen at `{}`", socket.display()), source);
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder).map_err(wrong)?;
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(wrong(error)),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(wrong)?;
    // until this the umask decides who may connect; the peer's uid is checked on every connection all the same
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(wrong)?;
    Ok(listener)
}
