//! Commands on their way: sent, delivered to the instance's agent, run there, answered or timed out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::hypervisor::agent::{Agent, Ended};

/// What the provider's agent does with a script, and where it bites: both the script and what it says go through files
/// of the root file system, so a guest whose root is frozen neither begins a command nor answers one.
const AGENT: &str = r#"d=/var/lib/amazon/ssm/$0
mkdir -p "$d" && cat > "$d/_script.sh" || exit 1
sh "$d/_script.sh" > "$d/stdout" 2> "$d/stderr"
code=$?
echo $code > "$d/code"
cat "$d/stdout"
cat "$d/stderr" >&2
exit $code"#;

/// How long an agent may take to say anything.
const PATIENCE: Duration = Duration::from_secs(5);

/// How far a command has come.
#[derive(Debug, Clone)]
pub(super) enum State {
    Pending,
    InProgress,
    Ended(Ended),
    /// Nobody took it in time, or it ran too long.
    TimedOut(&'static str),
}

/// One command to one instance.
#[derive(Debug, Clone)]
pub(super) struct Command {
    pub(super) account: String,
    pub(super) region: String,
    pub(super) instance: String,
    pub(super) document: String,
    pub(super) comment: String,
    /// Before it nobody finds it.
    pub(super) visible: Timestamp,
    pub(super) state: State,
}

/// An agent that a test has made up: it answers every script with the same.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scripted {
    pub(super) instance: String,
    #[serde(default = "linux")]
    pub(super) platform: String,
    #[serde(default)]
    pub(super) code: i64,
    #[serde(default)]
    pub(super) stdout: String,
    #[serde(default)]
    pub(super) stderr: String,
}

fn linux() -> String {
    "Linux".to_owned()
}

/// All commands.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    sent: Mutex<HashMap<String, Command>>,
    scripted: Mutex<HashMap<String, Scripted>>,
    /// The channel of an agent takes one conversation at a time.
    talking: Mutex<()>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a command is to do, and how long it may take.
pub(super) struct Order {
    pub(super) id: String,
    pub(super) script: String,
    /// Until somebody takes it.
    pub(super) delivery: Duration,
    /// From then on.
    pub(super) execution: Duration,
    /// The agent's channel; none: a made-up agent.
    pub(super) agent: Option<PathBuf>,
}

impl Commands {
    pub(super) fn make_up(&self, agent: Scripted) {
        locked(&self.scripted).insert(agent.instance.clone(), agent);
    }

    pub(super) fn made_up(&self, instance: &str) -> Option<Scripted> {
        locked(&self.scripted).get(instance).cloned()
    }

    pub(super) fn get(&self, id: &str) -> Option<Command> {
        locked(&self.sent).get(id).cloned()
    }

    fn set(&self, id: &str, state: State) {
        if let Some(command) = locked(&self.sent).get_mut(id) {
            command.state = state;
        }
    }

    /// Whether an agent answers.
    pub(super) fn ping(&self, socket: &Path) -> bool {
        let _alone = locked(&self.talking);
        Agent::connect(socket, PATIENCE).is_ok()
    }

    fn talk<T>(&self, socket: &Path, say: impl FnOnce(&mut Agent) -> std::io::Result<T>) -> std::io::Result<T> {
        let _alone = locked(&self.talking);
        say(&mut Agent::connect(socket, PATIENCE)?)
    }

    /// Sends a command on its way.
    pub(super) fn send(self: &Arc<Self>, order: Order, command: Command) {
        let (all, instance) = (self.clone(), command.instance.clone());
        locked(&self.sent).insert(order.id.clone(), command);
        std::thread::spawn(move || {
            let state = match &order.agent {
                Some(socket) => all.run(&order, socket),
                None => {
                    let agent = all.made_up(&instance);
                    agent.map_or(State::TimedOut("DeliveryTimedOut"), |it| {
                        State::Ended(Ended { code: it.code, stdout: it.stdout, stderr: it.stderr })
                    })
                }
            };
            all.set(&order.id, state);
        });
    }

    fn run(&self, order: &Order, socket: &Path) -> State {
        let late = Instant::now() + order.delivery;
        let process = loop {
            let program = ["/bin/sh", "-c", AGENT, &order.id];
            match self.talk(socket, |agent| agent.start(&program, &order.script)) {
                Ok(process) => break process,
                Err(_) if Instant::now() >= late => return State::TimedOut("DeliveryTimedOut"),
                Err(_) => std::thread::sleep(Duration::from_millis(500)),
            }
        };
        self.set(&order.id, State::InProgress);
        let late = Instant::now() + order.execution;
        loop {
            if let Ok(Some(ended)) = self.talk(socket, |agent| agent.ended(process)) {
                return State::Ended(ended);
            }
            if Instant::now() >= late {
                return State::TimedOut("ExecutionTimedOut");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// The first of the list that a parameter of a document is.
pub(super) fn parameter<'a>(body: &'a Value, name: &str) -> Option<&'a str> {
    body["Parameters"][name].as_array()?.first()?.as_str()
}
