//! Commands that read a point or a file without a restore: looking into it, serving it, writing it in another format.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a test's verdict")]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{World, golden};
use rustix::process::{Pid, Signal, kill_process};

fn captured() -> World {
    let world = World::new();
    world.fine(&["init", "--vault", "main"]);
    world.fine(&["run", "all", "-q"]);
    world
}

#[test]
fn looking() {
    let world = captured();
    let session: &[&[&str]] = &[
        &["inspect", "web-1"],
        &["inspect", "guests/web-1.raw"],
        &["inspect", "web-2"],
        &["inspect", "./none.raw"],
        &["convert", "guests/web-1.raw", "copy.qcow2"],
        &["convert", "guests/web-1.raw", "copy.qcow2"],
        &["convert", "copy.qcow2", "back.raw", "--source-format", "qcow2"],
        &["convert", "copy.qcow2", "back"],
        &["import", "back.raw", "--server", "old", "--to", "vault:main", "-q"],
        &["nbd", "web-1"],
        &["nbd", "web-2", "--socket", "s.sock"],
        &["nbd", "web-1", "--disk", "vdz", "--socket", "s.sock"],
        &["nbd", "web-1", "--listen", "0.0.0.0:10809"],
    ];
    let text: String = session.iter().map(|arguments| world.show(arguments)).collect();
    golden("looking", &text);
    let bytes = |name: &str| std::fs::read(world.path(name)).expect("file");
    assert!(bytes("back.raw") == bytes("guests/web-1.raw"));
}

#[test]
fn a_file_that_is_not_what_its_name_says_is_not_imported() {
    let world = captured();
    world.fine(&["convert", "guests/web-1.raw", "really-qcow2.img", "--format", "qcow2"]);
    world.write("appliance.vmdk", "KDMV and so on");
    let session: &[&[&str]] = &[
        &["import", "really-qcow2.img", "--server", "old", "--to", "vault:main"],
        &["import", "appliance.vmdk", "--server", "old", "--to", "vault:main"],
    ];
    let text: String = session.iter().map(|arguments| world.show(arguments)).collect();
    golden("import-names", &text);
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `nbd` and waits until it says where.
fn serve(world: &World, arguments: &[&str]) -> (Server, String) {
    let mut command = world.command(&[&["nbd", "web-1"], arguments].concat());
    let mut server = Server(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("nbd"));
    let out = BufReader::new(server.0.stdout.take().expect("stdout"));
    let line = out.lines().map_while(Result::ok).find(|line| line.contains("nbd")).expect("an address");
    let url = line.split_whitespace().last().expect("a word").to_owned();
    (server, url)
}

#[test]
fn a_point_is_served_from_the_vault_and_from_an_image_until_it_is_stopped() {
    if !Command::new("qemu-img").arg("--version").output().is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("REPLICATE_NO_SKIP").is_none(), "nothing may be skipped here: no qemu-img");
        println!("SKIPPED: qemu-img is not installed");
        return;
    }
    let world = captured();
    let wanted = std::fs::read(world.path("guests/web-1.raw")).expect("disk");
    // what is served is the point, whatever the server does meanwhile
    world.change_disk(77);
    let socket = world.path("s.sock").display().to_string();
    for arguments in
        [&["--socket", socket.as_str()][..], &["--listen", "127.0.0.1:0"], &["--from", "dr", "--socket", &socket]]
    {
        let (mut server, url) = serve(&world, arguments);
        let copy = world.path("copy.raw");
        let fetched = Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "raw", &url])
            .arg(&copy)
            .output()
            .expect("qemu-img");
        assert!(fetched.status.success(), "{url}: {}", String::from_utf8_lossy(&fetched.stderr));
        assert!(std::fs::read(&copy).expect("copy") == wanted, "{arguments:?}");
        // another command of this installation is not in its way
        world.fine(&["status"]);
        kill_process(Pid::from_child(&server.0), Signal::TERM).expect("signal");
        assert!(server.0.wait().expect("end").success());
        assert!(!Path::new(&socket).exists(), "its socket goes with it");
    }
}
