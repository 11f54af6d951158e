//! What restored servers get at a site: whatever a restore point cannot know of another cloud. Each provider has its own
//! words for it; that single servers differ from what is usual is the same everywhere.

use std::collections::BTreeMap;

use model::{MachineSpec, ServerName};

/// What a server is launched with, in a provider's words.
pub trait Spec: Clone + Default {
    /// This one, and where it says nothing, the usual one.
    #[must_use]
    fn or(self, usual: Self) -> Self;
}

/// How servers are launched at a site, and what single ones of them get instead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restore<S> {
    /// For every server.
    pub usual: S,
    /// For servers of these names; what is left out is as usual.
    pub servers: BTreeMap<ServerName, S>,
}

impl<S: Spec> Restore<S> {
    /// What a server gets.
    pub fn of(&self, server: &ServerName) -> S {
        self.servers.get(server).cloned().unwrap_or_default().or(self.usual.clone())
    }
}

/// Says, at a site that gives no TPMs, that a server had one.
pub fn without_tpm(server: &ServerName, machine: &MachineSpec) {
    if machine.tpm {
        tracing::warn!(%server, "it gets no TPM: the site gives none");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    struct Two(Option<u8>, Option<u8>);

    impl Spec for Two {
        fn or(self, usual: Self) -> Self {
            Two(self.0.or(usual.0), self.1.or(usual.1))
        }
    }

    #[test]
    fn a_server_of_its_own_overrides_what_is_usual() {
        let name = |text: &str| ServerName::new(text).unwrap();
        let servers = BTreeMap::from([(name("web"), Two(Some(7), None))]);
        let restore = Restore { usual: Two(Some(1), Some(2)), servers };
        assert_eq!(restore.of(&name("web")), Two(Some(7), Some(2)));
        assert_eq!(restore.of(&name("db")), Two(Some(1), Some(2)));
    }
}
