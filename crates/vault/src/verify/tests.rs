//! What no flipped bit can make and a faulty machine could: seals that are whole, over ids or maps that lie.

use std::sync::Arc;

use disk::{LEAF_BLOCKS, hash_blocks, leaf_of, zero_block};
use model::{Clock, Error, ManualClock};

use super::{VerifyScope, run, tree};
use crate::PackId;
use crate::bucket::MemoryBucket;
use crate::keys::{Keys, VaultId};
use crate::manifest::StoredPage;
use crate::map::{Page, Run};
use crate::options::Options;
use crate::pack::build::PackStream;
use crate::pack::{BLOCK, BlockAt, BlockId, FRAME_BLOCKS};
use crate::shared::Shared;
use crate::writer::run::Run as Writing;

fn vault() -> (Arc<MemoryBucket>, Arc<Shared>, PackStream) {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new("2026-11-24T00:00:00Z".parse().unwrap()));
    let keys = Keys::generate(VaultId([1; 16]));
    let bucket = Arc::new(MemoryBucket::new());
    let shared = Shared::new(bucket.clone(), keys, Options::new(clock)).unwrap();
    let stream = PackStream::new(shared.clone(), Arc::new(Writing::new(None, shared.index.excluded())));
    (bucket, shared, stream)
}

fn id(block: &[u8]) -> BlockId {
    let mut id = [zero_block()];
    hash_blocks(block, &mut id);
    id[0]
}

#[tokio::test]
async fn a_block_that_does_not_fit_its_id_is_damage() {
    let (_, shared, mut stream) = vault();
    let mut lying = None;
    for number in 0..2 * FRAME_BLOCKS {
        let block = vec![number as u8; BLOCK];
        let mut id = id(&block);
        id[0] ^= u8::from(number == FRAME_BLOCKS + 7);
        stream.make_room().await.unwrap();
        let at = stream.push(id, &block).unwrap();
        if number == FRAME_BLOCKS + 7 {
            lying = Some(at.at);
        }
    }
    stream.flush().await.unwrap();
    let lying = lying.unwrap();

    let report = run(&shared, &VerifyScope::All, &disk::Silent).await.unwrap();
    let damaged: Vec<_> = report.damaged.iter().map(|it| (it.pack.clone(), it.frames.clone())).collect();
    assert_eq!(damaged, [(lying.pack.to_string(), vec![lying.frame])]);
    assert!(report.damaged[0].why.contains("does not fit its id"), "{}", report.damaged[0].why);
}

/// What is said of the first page of a disk of three leaves.
async fn check(
    shared: &Arc<Shared>,
    entry: &StoredPage,
    before: Option<StoredPage>,
) -> Result<(), (Option<PackId>, Error)> {
    let disk = "d".parse().unwrap();
    tree::check_page(shared, tree::Task { disk, start: 0, leaves: 3, entry: entry.clone(), before }).await.1
}

#[tokio::test]
async fn a_map_that_names_other_blocks_does_not_fit_the_root() {
    let (bucket, shared, mut stream) = vault();
    let (mut ids, mut places) = (Vec::new(), Vec::new());
    for number in 0..2 * LEAF_BLOCKS {
        let block = vec![number as u8 + 1; BLOCK];
        ids.push(id(&block));
        stream.make_room().await.unwrap();
        places.push(stream.push(id(&block), &block).unwrap());
    }
    // leaf 0 is zero, leaf 1 has a zero block at its end, leaf 2 is full
    let mut page = Page::zero(3);
    page.leaves[1] = leaf_of(&ids[..LEAF_BLOCKS - 1]);
    page.leaves[2] = leaf_of(&ids[LEAF_BLOCKS..]);
    let run_of = |first: usize, count: usize, at: BlockAt| Run { first: first as u32, count: count as u32, at };
    let fine =
        [run_of(LEAF_BLOCKS, LEAF_BLOCKS - 1, places[0]), run_of(2 * LEAF_BLOCKS, LEAF_BLOCKS, places[LEAF_BLOCKS])];
    // leaf 1 is right, leaf 2 has the blocks of leaf 1; then: leaf 2 is right, leaf 1 has a block too many; and one behind the end
    let swapped = [fine[0], run_of(2 * LEAF_BLOCKS, LEAF_BLOCKS, places[0])];
    let longer = [run_of(LEAF_BLOCKS, LEAF_BLOCKS, places[0]), fine[1]];
    // a leaf that the tree calls zero
    let hidden = [run_of(0, 1, places[0]), fine[0], fine[1]];
    let behind = [fine[0], run_of(2 * LEAF_BLOCKS, LEAF_BLOCKS, places[LEAF_BLOCKS + 1])];
    let mut entries = Vec::new();
    for runs in [&fine[..], &swapped, &longer, &behind, &hidden] {
        page.runs = runs.to_vec();
        let at = stream.page(page.encode()).await.unwrap();
        entries.push(StoredPage { hash: page.hash(), at, packs: page.packs().into() });
    }
    stream.flush().await.unwrap();

    let known = |before: &StoredPage| Some(before.clone());
    for (entry, before, expected) in [
        (&entries[0], None, None),
        (&entries[1], None, Some("the bytes at 131072 of disk d: their blocks do not fit the disk's root")),
        (&entries[2], None, Some("the bytes at 65536 of disk d: their blocks do not fit the disk's root")),
        (&entries[3], None, Some("a map points behind its end")),
        (&entries[4], None, Some("the bytes at 0 of disk d: their blocks do not fit the disk's root")),
        // leaves that the parent has are the parent's matter
        (&entries[1], known(&entries[0]), None),
    ] {
        let checked = check(&shared, entry, before).await;
        let said = checked.as_ref().err().map(|(lost, error)| (lost.is_some(), error.chain()));
        match expected {
            None => assert_eq!(said, None),
            Some(expected) => {
                assert!(said.as_ref().is_some_and(|(lost, why)| !lost && why.contains(expected)), "{said:?}")
            }
        }
    }

    // ids that cannot be read: the pack is lost
    let pack = places[0].at.pack;
    shared.packs.forget(&[pack].into());
    assert!(bucket.damage(&pack.key(), |body| {
        let end = body.len() - 24 - (6 * 16 + 16) - 1;
        body[end] ^= 1;
    }));
    let (lost, _) = check(&shared, &entries[0], None).await.unwrap_err();
    assert_eq!(lost, Some(pack));
}
