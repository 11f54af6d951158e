//! Every kind of server and every state: what is done, what is promised, what is refused.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::machine::Sight;
use super::super::machine::tests::{properties, server, volume};
use super::*;
use crate::Hook;

const AGENT: &[(&str, &str)] = &[("hw_qemu_guest_agent", "yes")];
const FREEZES: &[(&str, &str)] = &[("hw_qemu_guest_agent", "yes"), ("os_require_quiesce", "True")];

struct Case {
    server: Value,
    properties: &'static [(&'static str, &'static str)],
    volumes: Vec<Volume>,
    group: Option<&'static str>,
    level: Consistency,
    required: bool,
}

impl Case {
    fn image(volumes: usize) -> Self {
        Self::new(json!({}), volumes)
    }

    fn volumes(volumes: usize) -> Self {
        Self::new(json!({"image": ""}), volumes)
    }

    fn new(server: Value, volumes: usize) -> Self {
        let devices = ["/dev/vda", "/dev/vdb", "/dev/vdc"];
        let all = devices.iter().take(volumes).map(|device| volume(&format!("vol-{device}"), Some(device), json!({})));
        let level = Consistency::Crash;
        Self { server, properties: &[], volumes: all.collect(), group: None, level, required: false }
    }

    fn state(mut self, state: &str) -> Self {
        self.server["OS-EXT-STS:vm_state"] = json!(state);
        self
    }

    fn wants(mut self, level: Consistency, properties: &'static [(&'static str, &'static str)]) -> Self {
        (self.level, self.properties) = (level, properties);
        self
    }

    fn decide(&self) -> Result<Way> {
        let server = server(self.server.clone());
        let volumes: Vec<&Volume> = self.volumes.iter().collect();
        let properties = properties(self.properties);
        let (image_size, cards) = (None, &[]);
        let sight = Sight { server: &server, properties: &properties, image_size, volumes: &volumes, cards };
        let hook = Hook::default();
        let limit = Duration::from_secs(10);
        let wanted = Consistent { level: self.level, required: self.required, hook, freeze_limit: limit };
        way(&server, &properties, &sight.disks()?, &volumes, self.group, &wanted)
    }

    fn refused(&self) -> String {
        let error = self.decide().unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        format!("{}; {}", error.chain(), error.advice().unwrap())
    }
}

#[test]
fn an_image_backed_server() {
    let way = Case::image(0).decide().unwrap();
    assert_eq!((way.root, way.volumes, way.level), (true, Volumes::None, Consistency::Crash));
    assert_eq!(way.warnings, [""; 0]);
    let way = Case::image(1).decide().unwrap();
    assert_eq!((way.root, way.volumes), (true, Volumes::Each));
    assert!(way.warnings[0].starts_with("multi-disk instant not atomic"), "{:?}", way.warnings);
    let way = Case::image(1).state("stopped").decide().unwrap();
    assert_eq!(way.warnings, [""; 0]);
}

#[test]
fn nova_never_tells_whether_it_froze_a_disk_of_its_own() {
    let way = Case::image(0).wants(Consistency::Filesystem, FREEZES).decide().unwrap();
    assert_eq!(way.level, Consistency::Crash);
    assert!(way.warnings[0].starts_with("consistency is crash, not filesystem: Nova does not tell"));
    let case = Case { required: true, ..Case::image(0).wants(Consistency::Filesystem, FREEZES) };
    assert!(case.refused().contains("its consistency would be crash, not filesystem"));
}

#[test]
fn a_volume_backed_server_freezes_if_it_must() {
    for level in [Consistency::Filesystem, Consistency::Application] {
        let way = Case::volumes(2).wants(level, FREEZES).decide().unwrap();
        assert_eq!((way.root, way.volumes, way.level), (false, Volumes::Image, level));
        assert_eq!(way.warnings, [""; 0]);
    }
    let way = Case::volumes(2).wants(Consistency::Filesystem, AGENT).decide().unwrap();
    assert_eq!((way.volumes, way.level), (Volumes::Image, Consistency::Crash));
    assert!(way.warnings[0].contains("os_require_quiesce"));
    assert!(way.warnings[1].starts_with("multi-disk instant not atomic"));
    let way = Case::volumes(1).state("stopped").wants(Consistency::Filesystem, FREEZES).decide().unwrap();
    assert_eq!((way.volumes, way.level), (Volumes::Each, Consistency::Crash));
}

#[test]
fn a_group_is_one_instant_and_so_is_one_volume() {
    let way = Case { group: Some("group-1"), ..Case::volumes(2) }.decide().unwrap();
    assert_eq!((way.volumes, way.warnings), (Volumes::Group("group-1".to_owned()), vec![]));
    let way = Case { group: Some("group-1"), ..Case::volumes(2).wants(Consistency::Filesystem, FREEZES) };
    assert_eq!(way.decide().unwrap().volumes, Volumes::Image);
    let way = Case::volumes(1).decide().unwrap();
    assert_eq!((way.volumes, way.warnings), (Volumes::Each, vec![]));
    let way = Case::volumes(3).decide().unwrap();
    assert_eq!(way.volumes, Volumes::Image);
    assert!(way.warnings[0].starts_with("multi-disk instant not atomic"));
}

#[test]
fn states() {
    for state in ["stopped", "paused", "suspended"] {
        let way = Case::volumes(2).state(state).decide().unwrap();
        assert_eq!((way.volumes, way.warnings), (Volumes::Each, vec![]), "{state}");
        assert!(Case::image(0).state(state).decide().is_ok(), "{state}");
    }
    let way = Case::volumes(2).state("shelved_offloaded").decide().unwrap();
    assert_eq!((way.volumes, way.warnings), (Volumes::Each, vec![]));
    let way = Case::volumes(2).state("error").decide().unwrap();
    assert_eq!(way.volumes, Volumes::Each);
    assert!(way.warnings[0].starts_with("multi-disk instant not atomic"));
    for (state, hint) in [("shelved_offloaded", "unshelve it"), ("error", "rebuild it"), ("resized", "confirm")] {
        let told = Case::image(1).state(state).refused();
        assert!(told.contains(state) && told.contains(hint), "{told}");
    }
}

#[test]
fn what_cannot_be_read_is_refused_or_told() {
    let mut case = Case::volumes(1);
    case.volumes[0].encrypted = true;
    assert!(case.refused().contains("volume vol-/dev/vda is encrypted"), "{}", case.refused());
    assert!(Case::volumes(0).refused().contains("no disk that can be read"));
    let flavor = json!({"vcpus": 1, "ram": 512, "disk": 1, "ephemeral": 1, "swap": 0});
    let way = Case::new(json!({"flavor": flavor}), 0).decide().unwrap();
    assert_eq!(way.warnings, ["disk ephemeral0 is recorded empty: the service has no call that reads it"]);
}
