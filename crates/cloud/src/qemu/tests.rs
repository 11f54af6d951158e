//! The clients against servers that misbehave: every reply is checked, nothing panics, nothing hangs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use disk::DiskRead;
use model::{Change, Kind};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::agent::Agent;
use super::nbd::{Connection, NbdDisk};
use super::qmp::Qmp;

struct Socket(PathBuf);

impl Socket {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("rpl-{}-{:08x}", std::process::id(), rand::random::<u32>()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder.join(name))
    }

    /// Answers one connection by `serve`.
    fn serve<F: Future<Output = ()> + Send + 'static>(&self, serve: impl FnOnce(UnixStream) -> F + Send + 'static) {
        let listener = UnixListener::bind(&self.0).unwrap();
        tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await });
    }

    /// Sends `text`, then drains what comes until the client goes.
    fn say(&self, text: Vec<u8>) {
        self.serve(|mut stream| async move {
            let _ = stream.write_all(&text).await;
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        });
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap());
    }
}

const GREETING: &str = "{\"QMP\":{\"version\":{},\"capabilities\":[]}}\n{\"return\":{},\"id\":1}\n";

#[tokio::test]
async fn answers_of_given_up_commands_and_events_are_told_apart() {
    let socket = Socket::new("m");
    let script = "{\"event\":\"STOP\",\"data\":{\"a\":1}}\n{\"return\":7,\"id\":1}\n{\"return\":8,\"id\":2}\n\
        {\"id\":3,\"error\":{\"class\":\"DeviceNotFound\",\"desc\":\"Device 'x' not found\"}}\n\
        {\"id\":4,\"error\":{\"class\":\"GenericError\",\"desc\":\"No space left on device\"}}\n";
    socket.say(format!("{GREETING}{script}").into_bytes());
    let mut qmp = Qmp::connect(&socket.0).await.unwrap();
    assert_eq!(qmp.execute("query-status", json!({})).await.unwrap(), json!(8), "not the answer to request 1");
    let event = qmp.event(|event| event.name == "STOP", Duration::from_secs(1)).await.unwrap();
    assert_eq!(event.data["a"], 1);
    assert_eq!(qmp.execute("x", json!({})).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(qmp.execute("y", json!({})).await.unwrap_err().kind(), Kind::Quota);
}

#[tokio::test]
async fn a_guest_that_would_not_survive_is_not_read() {
    let server = model::ServerName::new("web").unwrap();
    let threaded = "[{\"id\":\"io0\"}]";
    for (threads, version, fine) in [
        ("[]", "{}", true),
        (threaded, "{\"qemu\":{\"major\":7,\"minor\":2,\"micro\":22},\"package\":\"Debian 1:7.2\"}", false),
        (threaded, "{\"qemu\":{\"major\":8,\"minor\":2,\"micro\":2}}", false),
        (threaded, "{\"qemu\":{\"major\":8,\"minor\":2,\"micro\":3}}", true),
        (threaded, "{\"qemu\":{\"major\":9,\"minor\":0,\"micro\":0}}", true),
        (threaded, "{}", false),
    ] {
        let socket = Socket::new("m");
        let script = format!("{{\"return\":{threads},\"id\":2}}\n{{\"return\":{version},\"id\":3}}\n");
        socket.say(format!("{GREETING}{script}").into_bytes());
        let mut qmp = Qmp::connect(&socket.0).await.unwrap();
        let said = super::threads::check(&mut qmp, &server).await;
        assert_eq!(said.is_ok(), fine, "{version}: {said:?}");
        assert!(fine || said.unwrap_err().kind() == Kind::Invalid);
    }
}

#[tokio::test]
async fn a_busy_or_wrong_monitor_is_named() {
    let absent = Qmp::connect(Path::new("/nowhere/x.qmp")).await.unwrap_err();
    assert_eq!(absent.kind(), Kind::NotFound);
    let held = Socket::new("held");
    let _listener = UnixListener::bind(&held.0).unwrap(); // takes the connection and never greets
    let busy = Qmp::connect_within(&held.0, Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(busy.kind(), Kind::Transient);
    assert!(busy.advice().unwrap().contains("second `-qmp` socket"));
    for wrong in ["SSH-2.0-x\n", "{\"hello\":1}\n", "\u{0}\u{1}\n", "[]\n"] {
        let socket = Socket::new("w");
        socket.say(wrong.as_bytes().to_vec());
        assert_eq!(Qmp::connect(&socket.0).await.unwrap_err().kind(), Kind::Invalid, "{wrong:?}");
    }
    let endless = Socket::new("e");
    endless.say(vec![b'x'; (16 << 20) + 2]);
    assert!(Qmp::connect(&endless.0).await.unwrap_err().chain().contains("longer than"));
}

#[tokio::test]
async fn a_command_without_an_answer_ends_by_its_deadline() {
    let socket = Socket::new("m");
    socket.say(GREETING.as_bytes().to_vec());
    let mut qmp = Qmp::connect(&socket.0).await.unwrap();
    let late = qmp.execute_within("stop", json!({}), Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(late.kind(), Kind::Transient, "{}", late.chain());
    let socket = Socket::new("g");
    socket.say(b"{\"return\": 1}\n".to_vec()); // stale, and no answer to the sync
    assert_eq!(Agent::connect(&socket.0, Duration::from_millis(200)).await.unwrap_err().kind(), Kind::Transient);
}

/// Reads one option of the client's; its number.
async fn option(stream: &mut UnixStream) -> u32 {
    let mut head = [0; 16];
    stream.read_exact(&mut head).await.unwrap();
    let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
    let mut data = vec![0; word(12) as usize];
    stream.read_exact(&mut data).await.unwrap();
    word(8)
}

async fn reply(stream: &mut UnixStream, option: u32, kind: u32, data: &[u8]) {
    let mut bytes = 0x3_e889_0455_65a9_u64.to_be_bytes().to_vec();
    for word in [option, kind, data.len() as u32] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(data);
    stream.write_all(&bytes).await.unwrap();
}

/// Shakes hands as a good server with an export of `size` bytes and both contexts.
async fn shake(stream: &mut UnixStream, size: u64) {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03").await.unwrap();
    stream.read_u32().await.unwrap();
    let asked = option(stream).await;
    reply(stream, asked, 1, &[]).await;
    let asked = option(stream).await;
    reply(stream, asked, 4, b"\0\0\0\x05base:allocation").await;
    reply(stream, asked, 4, b"\0\0\0\x06qemu:dirty-bitmap:b").await;
    reply(stream, asked, 1, &[]).await;
    let asked = option(stream).await;
    let mut info = vec![0, 0];
    info.extend(size.to_be_bytes());
    info.extend([0, 1]);
    reply(stream, asked, 3, &info).await;
    reply(stream, asked, 1, &[]).await;
}

/// The next request: handle, command, offset, length.
async fn asked(stream: &mut UnixStream) -> (u64, u16, u64, u32) {
    let mut bytes = [0; 28];
    stream.read_exact(&mut bytes).await.unwrap();
    let long = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    (long(8), u16::from_be_bytes([bytes[6], bytes[7]]), long(16), (long(20) & 0xffff_ffff) as u32)
}

fn chunk(done: bool, kind: u16, handle: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = 0x668e_33ef_u32.to_be_bytes().to_vec();
    bytes.extend(u16::from(done).to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(handle.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

#[tokio::test]
async fn answers_may_come_in_any_order_and_in_parts() {
    let socket = Socket::new("n");
    socket.serve(|mut stream| async move {
        shake(&mut stream, 4096).await;
        let (first, second) = (asked(&mut stream).await, asked(&mut stream).await);
        for (handle, _, offset, len) in [second, first] {
            let half = u64::from(len) / 2;
            let mut data = (offset + half).to_be_bytes().to_vec();
            data.extend(vec![offset as u8 / 2 + 1; half as usize]);
            stream.write_all(&chunk(false, 1, handle, &data)).await.unwrap();
            let mut hole = offset.to_be_bytes().to_vec();
            hole.extend((half as u32).to_be_bytes());
            stream.write_all(&chunk(true, 2, handle, &hole)).await.unwrap();
        }
    });
    let connection = Connection::open(&socket.0, "x", &["base:allocation".into()]).await.unwrap();
    let (first, second) = tokio::join!(connection.read(0, 1024), connection.read(64, 512));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(first[..512].iter().all(|b| *b == 0) && first[512..].iter().all(|b| *b == 1));
    assert!(second[..256].iter().all(|b| *b == 0) && second[256..].iter().all(|b| *b == 33));
    assert_eq!(connection.read(4000, 512).await.unwrap_err().kind(), Kind::Invalid, "behind the end");
}

#[tokio::test]
async fn dirty_and_allocated_ranges_are_crossed() {
    let socket = Socket::new("n");
    socket.serve(|mut stream| async move {
        shake(&mut stream, 1 << 20).await;
        let (handle, command, offset, _) = asked(&mut stream).await;
        assert_eq!((command, offset), (7, 0));
        let allocation = words(&[5, 262_144, 0, 262_144, 3, 524_288, 0]);
        let dirty = words(&[6, 131_072, 0, 262_144, 1, 524_288, 0, 131_072, 1]);
        stream.write_all(&chunk(false, 5, handle, &dirty)).await.unwrap();
        stream.write_all(&chunk(true, 5, handle, &allocation)).await.unwrap();
    });
    let disk = NbdDisk::open(socket.0.clone(), "x", Some("b"), "disk x".into()).await.unwrap();
    let list = disk.extents(0).await.unwrap();
    let found: Vec<_> = list.as_slice().iter().map(|e| (e.offset >> 10, e.len >> 10, e.change)).collect();
    assert_eq!(found, [(128, 128, Change::Data), (256, 128, Change::Zero), (896, 128, Change::Data)]);
}

#[tokio::test]
async fn false_replies_are_errors() {
    let far = { [8192_u64.to_be_bytes().to_vec(), vec![1; 512]].concat() };
    let short = { [0_u64.to_be_bytes().to_vec(), vec![1; 100]].concat() };
    let huge = { [&u64::MAX.to_be_bytes()[..], &u32::MAX.to_be_bytes()[..]].concat() };
    let cases: Vec<(&str, Vec<u8>, Kind)> = vec![
        ("outside", chunk(true, 1, 1, &far), Kind::Invalid),
        ("too little", chunk(true, 1, 1, &short), Kind::Invalid),
        ("nothing", chunk(true, 0, 1, &[]), Kind::Invalid),
        ("a hole of 4 GiB at the end of time", chunk(true, 2, 1, &huge), Kind::Invalid),
        ("status for a read", chunk(true, 5, 1, &words(&[5, 512, 0])), Kind::Invalid),
        ("another handle", chunk(true, 0, 9, &[]), Kind::Invalid),
        ("an error", chunk(true, 0x8001, 1, &[0, 0, 0, 5, 0, 2, b'n', b'o']), Kind::Damaged),
        (
            "an error whose text is longer than itself",
            chunk(true, 0x8001, 1, &[0, 0, 0, 22, 0xff, 0xff]),
            Kind::Damaged,
        ),
        ("garbage", vec![0xa5; 64], Kind::Invalid),
        ("silence", Vec::new(), Kind::Transient),
    ];
    for (name, bytes, kind) in cases {
        let socket = Socket::new("n");
        socket.serve(|mut stream| async move {
            shake(&mut stream, 1 << 20).await;
            asked(&mut stream).await;
            let _ = stream.write_all(&bytes).await;
        });
        let connection = Connection::open(&socket.0, "x", &[]).await.unwrap();
        let error = connection.read(0, 512).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {}", error.chain());
    }
}

#[tokio::test]
async fn false_handshakes_are_errors() {
    let good: Vec<u8> = {
        let magic = 0x3_e889_0455_65a9_u64.to_be_bytes();
        let part = |words_: &[u32]| [&magic[..], &words(words_)].concat();
        [b"NBDMAGICIHAVEOPT\0\x03".to_vec(), part(&[8, 1, 0]), part(&[10, 1, 0]), part(&[7, 1, 0])].concat()
    };
    let open = async |bytes: Vec<u8>| {
        let socket = Socket::new("n");
        socket.serve(|mut stream| async move {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        });
        Connection::open(&socket.0, "x", &["base:allocation".into()]).await.map(|_| ())
    };
    assert!(open(good.clone()).await.unwrap_err().chain().contains("size"), "an export without a size");
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..300 {
        let mut bytes = good.clone();
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= 1 << random.random_range(0..8);
        bytes.truncate(random.random_range(at..=bytes.len()));
        assert!(open(bytes).await.is_err());
    }
}

#[tokio::test]
async fn noise_never_panics() {
    let mut random = StdRng::seed_from_u64(11);
    for round in 0..300 {
        let mut noise = Vec::new();
        for _ in 0..random.random_range(1..6) {
            let kind = [0, 1, 2, 5, 0x8001, 0x8002, 77][random.random_range(0..7)];
            let data: Vec<u8> = (0..random.random_range(0..40)).map(|_| random.random()).collect();
            noise.extend(chunk(random.random_bool(0.3), kind, random.random_range(1..4), &data));
        }
        let socket = Socket::new("n");
        socket.serve(|mut stream| async move {
            shake(&mut stream, 1 << 20).await;
            asked(&mut stream).await;
            let _ = stream.write_all(&noise).await;
        });
        let disk = NbdDisk::open(socket.0.clone(), "x", Some("b"), "disk x".into()).await.unwrap();
        let failed = match round % 2 {
            0 => disk.read_at(0, 512).await.is_err(),
            _ => disk.extents(0).await.is_err(),
        };
        assert!(failed, "round {round}");
    }
}
