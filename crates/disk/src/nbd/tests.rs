//! The server against a client that knows the words, and one that does not. `qemu-img`, `qemu-io` and a guest try it in the tests of the
//! workspace.

use async_trait::async_trait;
use bytes::Bytes;
use model::{Change, Extent, ExtentList};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::wire::{chunk, command, errno, option, reply};
use super::*;

struct Memory {
    bytes: Vec<u8>,
}

#[async_trait]
impl DiskRead for Memory {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
    async fn extents(&self, from: u64) -> Result<ExtentList> {
        let sectors = self.bytes.chunks(512).enumerate().map(|(index, bytes)| Extent {
            offset: index as u64 * 512,
            len: 512,
            change: if crate::is_zero(bytes) { Change::Zero } else { Change::Data },
        });
        Ok(sectors.filter(|extent| extent.offset >= from).take(3).collect())
    }
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        assert!(offset.is_multiple_of(512) && len.is_multiple_of(512));
        if (offset..offset + len as u64).contains(&4096) {
            return Err(Error::new(Kind::Damaged, "cannot read the model"));
        }
        Ok(Bytes::copy_from_slice(&self.bytes[offset as usize..offset as usize + len]))
    }
    fn describe(&self) -> String {
        "the model".into()
    }
}

fn server() -> NbdServer {
    let mut bytes = vec![0; 8192];
    bytes[512..1536].fill(7);
    let export = |name: &str, bytes: Vec<u8>| Export { name: name.to_owned(), disk: Arc::new(Memory { bytes }) };
    NbdServer::new(vec![export("vda", bytes), export("vdb", vec![9; 512])], 0).unwrap()
}

/// A client at the other end of a pipe.
struct Client(DuplexStream);

impl Client {
    async fn send(&mut self, parts: &[&[u8]]) {
        self.0.write_all(&parts.concat()).await.unwrap();
    }

    async fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    async fn option(&mut self, code: u32, data: &[u8]) {
        let len = (data.len() as u32).to_be_bytes();
        self.send(&[b"IHAVEOPT", &code.to_be_bytes(), &len, data]).await;
    }

    /// A reply to an option: its kind and data.
    async fn reply(&mut self) -> (u32, Vec<u8>) {
        let head = self.take(20).await;
        assert_eq!(head[..8], wire::OPTION_REPLY.to_be_bytes());
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        let data = self.take(number(16) as usize).await;
        (number(12), data)
    }

    async fn request(&mut self, kind: u16, offset: u64, len: u32) {
        let head = [wire::REQUEST.to_be_bytes().as_slice(), &0u16.to_be_bytes(), &kind.to_be_bytes()].concat();
        self.send(&[&head, &offset.to_be_bytes(), &offset.to_be_bytes(), &len.to_be_bytes()]).await;
    }

    /// A reply to a request: kind, cookie (which is the offset here) and payload.
    async fn chunk(&mut self) -> (u16, u64, Vec<u8>) {
        let head = self.take(20).await;
        assert_eq!((&head[..4], &head[4..6]), (&wire::CHUNK.to_be_bytes()[..], &[0, 1][..]));
        let len = u32::from_be_bytes(head[16..20].try_into().unwrap());
        let kind = u16::from_be_bytes(head[6..8].try_into().unwrap());
        (kind, u64::from_be_bytes(head[8..16].try_into().unwrap()), self.take(len as usize).await)
    }
}

/// Runs a client against a server, which must end without trouble.
async fn meet<T>(talk: impl AsyncFnOnce(&mut Client) -> T) -> T {
    let (near, far) = duplex(1 << 16);
    let server = server();
    let serving = server.serve(far);
    let talking = async {
        let mut client = Client(near);
        assert_eq!(client.take(18).await, b"NBDMAGICIHAVEOPT\0\x03");
        client.send(&[&3u32.to_be_bytes()]).await;
        let outcome = talk(&mut client).await;
        drop(client);
        outcome
    };
    let (served, outcome) = tokio::join!(serving, talking);
    served.unwrap();
    outcome
}

fn named(name: &str, rest: &[u8]) -> Vec<u8> {
    [&(name.len() as u32).to_be_bytes(), name.as_bytes(), rest].concat()
}

async fn go(client: &mut Client, name: &str) -> u64 {
    client.option(option::STRUCTURED_REPLY, &[]).await;
    assert_eq!(client.reply().await.0, reply::ACK);
    let query = [1u32.to_be_bytes().as_slice(), &named(wire::ALLOCATION, &[])].concat();
    client.option(option::SET_META_CONTEXT, &named(name, &query)).await;
    assert_eq!(client.reply().await, (reply::META_CONTEXT, b"\0\0\0\x01base:allocation".to_vec()));
    assert_eq!(client.reply().await.0, reply::ACK);
    client.option(option::GO, &named(name, &0u16.to_be_bytes())).await;
    let (kind, info) = client.reply().await;
    assert_eq!(kind, reply::INFO);
    assert_eq!(client.reply().await.0, reply::ACK);
    u64::from_be_bytes(info[2..10].try_into().unwrap())
}

#[tokio::test]
async fn reads_holes_status_and_trouble() {
    meet(async |client| {
        assert_eq!(go(client, "vda").await, 8192);
        // not on sectors, on purpose
        client.request(command::READ, 510, 4).await;
        assert_eq!(client.chunk().await, (chunk::DATA, 510, [&510u64.to_be_bytes()[..], &[0, 0, 7, 7]].concat()));
        client.request(command::READ, 2048, 1024).await;
        let hole = [&2048u64.to_be_bytes()[..], &1024u32.to_be_bytes()].concat();
        assert_eq!(client.chunk().await, (chunk::HOLE, 2048, hole));
        client.request(command::BLOCK_STATUS, 100, 1000).await;
        let numbers = [wire::ALLOCATION_ID, 412, wire::HOLE_AND_ZERO, 588, 0];
        let wanted: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        assert_eq!(client.chunk().await, (chunk::BLOCK_STATUS, 100, wanted));
        for (kind, offset, len, error) in [
            (command::READ, 4000, 200, errno::IO),
            (command::READ, 8000, 400, errno::INVALID),
            (command::READ, u64::MAX, 2, errno::INVALID),
            (command::READ, 0, u32::MAX, errno::INVALID),
            (command::TRIM, 0, 512, errno::PERMISSION),
            (command::WRITE_ZEROES, 0, 512, errno::PERMISSION),
            (99, 0, 512, errno::INVALID),
        ] {
            client.request(kind, offset, len).await;
            let (kind, cookie, data) = client.chunk().await;
            assert_eq!((kind, cookie, &data[..4]), (chunk::ERROR, offset, &error.to_be_bytes()[..]));
        }
        // the payload of a refused write is taken off the line
        client.request(command::WRITE, 0, 512).await;
        client.send(&[&[0x55; 512]]).await;
        assert_eq!(client.chunk().await.2[..4], errno::PERMISSION.to_be_bytes());
        client.request(command::FLUSH, 0, 0).await;
        assert_eq!(client.chunk().await, (chunk::NONE, 0, vec![]));
        client.request(command::DISCONNECT, 0, 0).await;
    })
    .await;
}

#[tokio::test]
async fn a_plain_client_gets_plain_replies_from_the_export_that_it_names() {
    meet(async |client| {
        client.option(option::LIST, &[]).await;
        assert_eq!(client.reply().await, (reply::SERVER, named("vda", &[])));
        assert_eq!(client.reply().await, (reply::SERVER, named("vdb", &[])));
        assert_eq!(client.reply().await.0, reply::ACK);
        client.option(option::GO, &named("vdz", &0u16.to_be_bytes())).await;
        assert_eq!(client.reply().await.0, reply::UNKNOWN);
        client.option(77, &[]).await;
        assert_eq!(client.reply().await.0, reply::UNSUPPORTED);
        client.option(option::EXPORT_NAME, b"vdb").await;
        assert_eq!(client.take(10).await[..8], 512u64.to_be_bytes());
        client.request(command::READ, 8, 2).await;
        let head = [&wire::SIMPLE_REPLY.to_be_bytes()[..], &0u32.to_be_bytes(), &8u64.to_be_bytes()].concat();
        assert_eq!(client.take(18).await, [&head[..], &[9, 9]].concat());
        client.request(command::BLOCK_STATUS, 0, 512).await;
        assert_eq!(client.take(16).await[4..8], errno::INVALID.to_be_bytes(), "it was not agreed on");
    })
    .await;
}

#[tokio::test]
async fn many_requests_are_answered_whatever_their_order() {
    meet(async |client| {
        go(client, "").await;
        for at in 0..500u64 {
            client.request(command::READ, 512 + at, 1).await;
        }
        let mut seen: Vec<u64> = Vec::new();
        for _ in 0..500 {
            let (kind, cookie, data) = client.chunk().await;
            assert_eq!((kind, &data[8..]), (chunk::DATA, &[7][..]));
            seen.push(cookie);
        }
        seen.sort_unstable();
        assert!(seen.into_iter().eq(512..1012));
    })
    .await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_a_client_says_the_server_ends(
        options in prop::collection::vec((0u32..12, prop::collection::vec(any::<u8>(), 0..40)), 0..6),
        garbage in prop::collection::vec(any::<u8>(), 0..200), chosen: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (near, far) = duplex(1 << 20);
            let server = server();
            let talking = async {
                let mut client = Client(near);
                client.send(&[&3u32.to_be_bytes()]).await;
                for (code, data) in &options {
                    client.option(*code, data).await;
                }
                if chosen {
                    client.option(option::GO, &named("", &0u16.to_be_bytes())).await;
                    client.send(&[&wire::REQUEST.to_be_bytes()]).await;
                }
                client.send(&[&garbage]).await;
                client.0.shutdown().await.unwrap();
                let mut all = Vec::new();
                let _ = client.0.read_to_end(&mut all).await;
            };
            // a verdict of any kind, but a verdict
            let _ = tokio::join!(server.serve(far), talking);
        });
    }
}
