//! A restored server becomes a server of its site: its monitor and guest agent listen where the site looks for them,
//! and a sidecar file carries its tags.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::{Error, Firmware, InstanceId, Kind, Result, ServerName};

use toml::Value;

use super::instance::{InstanceRecord, SiteSockets};
use super::layout::{encode, make_folder, remove_file, write_durable};
use super::machine::VARIABLES;

/// The longest path of a Unix socket.
const LONGEST: usize = 107;

/// Finds the places of a server's sockets from the site's pattern. Fails with [`Kind::Exists`] if a guest that is not
/// this instance runs under the name; what a dead one has left there is put aside.
pub(super) async fn claim(pattern: &str, name: &ServerName, instance: &InstanceId) -> Result<Option<SiteSockets>> {
    let Some(monitor) = place(pattern, name)? else { return Ok(None) };
    let sockets =
        SiteSockets { agent: monitor.with_extension("agent"), sidecar: monitor.with_extension("toml"), monitor };
    for path in [&sockets.monitor, &sockets.agent] {
        if path.as_os_str().len() > LONGEST {
            return Err(Error::new(Kind::Invalid, format!("cannot use {} as a socket", path.display()))
                .because(format!("its path is longer than {LONGEST} bytes"))
                .hint("let the site's `sockets` name a folder with a shorter path, such as /run/guests"));
        }
    }
    if is_ours(&sockets.sidecar, instance) {
        return Ok(Some(sockets));
    }
    if listens(&sockets.monitor).await {
        return Err(Error::new(Kind::Exists, format!("cannot launch {name}"))
            .because(format!("a guest runs under this name: {} answers", sockets.monitor.display()))
            .hint("stop that guest, or restore under another name"));
    }
    if let Some(parent) = sockets.monitor.parent() {
        make_folder(parent)?;
    }
    if sockets.sidecar.exists() {
        // the description of the server that was lost: a person may want it, the site must not
        let aside = sockets.sidecar.with_extension("toml.replaced");
        fs::rename(&sockets.sidecar, &aside)
            .map_err(|error| Error::io(format!("cannot put {} aside", sockets.sidecar.display()), error))?;
    }
    Ok(Some(sockets))
}

/// Where a server's monitor belongs: the pattern with its `*` replaced, or the pattern as a folder.
fn place(pattern: &str, name: &ServerName) -> Result<Option<PathBuf>> {
    if pattern.is_empty() {
        return Ok(None);
    }
    let name = encode(name.as_str());
    let path = Path::new(pattern);
    let file = path.file_name().map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = path.parent().unwrap_or(Path::new("/"));
    let magic = |text: &str| text.contains(['*', '?', '[']);
    if magic(&folder.to_string_lossy()) || (magic(&file) && file.matches('*').count() != 1) {
        return Err(Error::new(Kind::Invalid, format!("cannot tell where the socket of {name} belongs"))
            .because(format!("the site's `sockets` is `{pattern}`"))
            .hint("write `sockets` as FOLDER/*.qmp"));
    }
    let place = if magic(&file) { folder.join(file.replace('*', &name)) } else { path.join(format!("{name}.qmp")) };
    let place =
        std::path::absolute(&place).map_err(|error| Error::io(format!("cannot resolve {}", place.display()), error))?;
    Ok(Some(place))
}

async fn listens(monitor: &Path) -> bool {
    tokio::time::timeout(Duration::from_secs(2), tokio::net::UnixStream::connect(monitor))
        .await
        .is_ok_and(|connected| connected.is_ok())
}

fn mark(instance: &InstanceId) -> String {
    format!("# restored by replicate as instance {instance}")
}

fn is_ours(sidecar: &Path, instance: &InstanceId) -> bool {
    fs::read_to_string(sidecar).is_ok_and(|text| text.starts_with(&mark(instance)))
}

/// Writes the sidecar of a restored server. Repeating it is harmless.
pub(super) fn publish(instance: &InstanceId, record: &InstanceRecord, folder: &Path) -> Result<()> {
    let Some(sockets) = &record.sockets else { return Ok(()) };
    if is_ours(&sockets.sidecar, instance) {
        return Ok(());
    }
    let table = describe(sockets, record, folder).map_err(|error| {
        Error::new(Kind::Permanent, format!("cannot write {}", sockets.sidecar.display())).because(error)
    })?;
    let text = format!("{}\n{table}", mark(instance));
    write_durable(&sockets.sidecar, text.as_bytes(), "qemu.instance-sidecar")
}

/// The server in the words of a sidecar: all that the site must know to capture it while it is off.
fn describe(sockets: &SiteSockets, record: &InstanceRecord, folder: &Path) -> Result<String, toml::ser::Error> {
    let machine = &record.machine;
    let firmware = match &machine.firmware {
        Firmware::Bios => toml::Table::from_iter([("kind".to_owned(), Value::from("bios"))]),
        Firmware::Uefi { secure_boot, .. } => toml::Table::from_iter([
            ("kind".to_owned(), Value::from("uefi")),
            ("secure-boot".to_owned(), Value::from(*secure_boot)),
            ("variables".to_owned(), Value::try_from(folder.join(VARIABLES))?),
        ]),
    };
    let mut disks = Vec::new();
    for disk in &machine.disks {
        let Some(file) = record.disks.iter().find(|file| file.name == disk.name) else { continue };
        let mut table = toml::Table::from_iter([
            ("name".to_owned(), Value::try_from(&disk.name)?),
            ("path".to_owned(), Value::try_from(&file.path)?),
            ("format".to_owned(), Value::from(file.format.name())),
            ("bus".to_owned(), Value::try_from(disk.bus)?),
        ]);
        if let Some(serial) = &disk.serial {
            table.insert("serial".to_owned(), Value::from(serial.as_str()));
        }
        disks.push(Value::Table(table));
    }
    let mut all = toml::Table::from_iter([
        ("agent".to_owned(), Value::try_from(&sockets.agent)?),
        ("arch".to_owned(), Value::try_from(machine.arch)?),
        ("memory".to_owned(), Value::Integer(machine.memory.try_into().unwrap_or(i64::MAX))),
        ("vcpus".to_owned(), Value::from(machine.vcpus)),
        ("tags".to_owned(), Value::try_from(&machine.tags)?),
        ("firmware".to_owned(), Value::Table(firmware)),
        ("nics".to_owned(), Value::try_from(&machine.nics)?),
        ("disks".to_owned(), Value::Array(disks)),
    ]);
    if let Some(chipset) = &machine.chipset {
        all.insert("chipset".to_owned(), Value::from(chipset.as_str()));
    }
    toml::to_string(&all)
}

/// Removes the sockets and the sidecar of an instance that is destroyed. What belongs to another one is left alone.
pub(super) fn withdraw(sockets: &SiteSockets, instance: &InstanceId) -> Result<()> {
    if !is_ours(&sockets.sidecar, instance) {
        return Ok(());
    }
    remove_file(&sockets.monitor)?;
    remove_file(&sockets.agent)?;
    // the sidecar last: while it is there a repeated call knows that the rest is ours
    remove_file(&sockets.sidecar)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> ServerName {
        ServerName::new("web-1").unwrap()
    }

    #[test]
    fn the_socket_belongs_where_the_pattern_finds_it() {
        let at = |pattern: &str| place(pattern, &name()).map(|place| place.map(|path| path.display().to_string()));
        assert_eq!(at("/run/guests/*.qmp").unwrap().as_deref(), Some("/run/guests/web-1.qmp"));
        assert_eq!(at("/run/guests").unwrap().as_deref(), Some("/run/guests/web-1.qmp"));
        assert_eq!(at("").unwrap(), None);
        assert_eq!(at("/run/*/x.qmp").unwrap_err().kind(), Kind::Invalid);
    }

    #[tokio::test]
    async fn a_running_guest_keeps_its_name_and_a_dead_ones_sidecar_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let pattern = format!("{}/*.qmp", folder.path().display());
        let instance = InstanceId::new("i-1").unwrap();
        let sidecar = folder.path().join("web-1.toml");
        fs::write(&sidecar, "tags = {}\n").unwrap();
        let listener = tokio::net::UnixListener::bind(folder.path().join("web-1.qmp")).unwrap();
        let refused = claim(&pattern, &name(), &instance).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Exists);
        assert!(sidecar.exists());
        drop(listener);
        claim(&pattern, &name(), &instance).await.unwrap();
        assert!(!sidecar.exists());
        assert_eq!(fs::read_to_string(folder.path().join("web-1.toml.replaced")).unwrap(), "tags = {}\n");
    }
}
