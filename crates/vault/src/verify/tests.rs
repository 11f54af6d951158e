//! What no flipped bit can make and a faulty machine could: a pack whose seals are whole and whose ids lie.

use std::sync::Arc;

use model::{Clock, ManualClock};

use super::{VerifyScope, run, scan};
use crate::bucket::MemoryBucket;
use crate::keys::{Keys, VaultId};
use crate::options::Options;
use crate::pack::build::PackStream;
use crate::pack::{BLOCK, FRAME_BLOCKS, block_id};
use crate::shared::Shared;
use crate::writer::run::Run;

#[tokio::test]
async fn a_block_that_does_not_fit_its_id_is_damage() {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new("2026-11-24T00:00:00Z".parse().unwrap()));
    let keys = Keys::generate(VaultId([1; 16]));
    let shared = Shared::new(Arc::new(MemoryBucket::new()), keys, Options::new(clock)).unwrap();
    let mut stream = PackStream::new(shared.clone(), Arc::new(Run::new(None, shared.index.excluded())));
    let mut lying = None;
    for number in 0..2 * FRAME_BLOCKS {
        let block = vec![number as u8; BLOCK];
        let mut id = block_id(shared.keys.block(), &block);
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

    // and where a reader's cache is asked
    let fine = crate::pack::FrameAt { frame: 1 - lying.frame, ..lying };
    let checked = scan::check_frames(&shared, &[lying, fine]).await;
    assert_eq!(checked.iter().map(|(_, result)| result.is_ok()).collect::<Vec<_>>(), [false, true]);
}
