//! How an instance of the memory cloud behaves when it boots.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A scripted boot. [`Default`] is a Debian-like guest with an agent that boots to its login prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootScript {
    /// What the console shows, line by line.
    pub console: Vec<String>,
    /// How many more lines each look at the console shows; 0 shows all at once.
    pub lines_per_look: usize,
    /// Whether the guest panics once all of its console was shown.
    pub panics: bool,
    /// Whether the machine goes off once all of its console was shown.
    pub stops: bool,
    /// Whether the guest agent answers once all of its console was shown.
    pub agent: bool,
    /// Answers of the agent: the command joined by blanks -> exit code and output. `echo ...` always works.
    pub answers: BTreeMap<String, (i32, String)>,
    /// Guest ports that something answers on, at an address that the test serves.
    pub ports: BTreeMap<u16, SocketAddr>,
}

impl Default for BootScript {
    fn default() -> Self {
        let console = [
            "SeaBIOS (version 1.16.3)",
            "Booting from Hard Disk...",
            "Linux version 6.12.0 (memory cloud)",
            "EXT4-fs (vda1): mounted filesystem ro with ordered data mode",
            "systemd[1]: Reached target multi-user.target",
            "server login: ",
        ];
        Self {
            console: console.map(str::to_owned).to_vec(),
            lines_per_look: 0,
            panics: false,
            stops: false,
            agent: true,
            answers: BTreeMap::new(),
            ports: BTreeMap::new(),
        }
    }
}

impl BootScript {
    /// A kernel that does not find its root.
    pub fn panic() -> Self {
        let console = [
            "SeaBIOS (version 1.16.3)",
            "Booting from Hard Disk...",
            "Linux version 6.12.0 (memory cloud)",
            "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        ];
        Self { console: console.map(str::to_owned).to_vec(), panics: true, agent: false, ..Self::default() }
    }

    /// Firmware that finds nothing to boot: what an empty disk gives.
    pub fn nothing_to_boot() -> Self {
        let console = ["SeaBIOS (version 1.16.3)", "Boot failed: not a bootable disk", "No bootable device."];
        Self { console: console.map(str::to_owned).to_vec(), agent: false, ..Self::default() }
    }

    /// The console after so many looks, and whether that is all of it.
    pub(super) fn shown(&self, looks: usize) -> (String, bool) {
        let lines = if self.lines_per_look == 0 { self.console.len() } else { looks * self.lines_per_look };
        let lines = lines.min(self.console.len());
        (self.console[..lines].join("\r\n"), lines == self.console.len())
    }

    /// What the agent answers to a command.
    pub(super) fn execute(&self, command: &[String]) -> (i32, String) {
        if let Some(answer) = self.answers.get(&command.join(" ")) {
            return answer.clone();
        }
        match command.split_first() {
            Some((program, words)) if program == "echo" || program == "/bin/echo" => (0, words.join(" ") + "\n"),
            Some((program, _)) => (127, format!("{program}: command not found\n")),
            None => (127, String::new()),
        }
    }
}
