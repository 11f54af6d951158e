//! Finds blocks that the vault already holds: exact matches among the ids of frames that are likely to have them.
//!
//! A frame becomes likely when the index has a hint to it, when the parent has it at the same place, or when it is
//! the neighbour of such a frame: what was written together is found together.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use model::{Kind, Result};

use crate::index::Excluded;
use crate::pack::{BlockAt, BlockId, FrameAt};
use crate::shared::Shared;

/// Frames on each side of a hit.
const NEIGHBOURS: u32 = 4;
/// Frames whose ids are held.
const FRAMES_HELD: usize = 192;

/// See the module.
pub(crate) struct Matcher {
    shared: Arc<Shared>,
    excluded: Arc<Excluded>,
    found: HashMap<BlockId, BlockAt>,
    order: VecDeque<(FrameAt, Vec<BlockId>)>,
    active: HashSet<FrameAt>,
}

impl Matcher {
    /// A matcher that holds nothing.
    pub fn new(shared: Arc<Shared>, excluded: Arc<Excluded>) -> Self {
        let (found, order, active) = (HashMap::new(), VecDeque::new(), HashSet::new());
        Self { shared, excluded, found, order, active }
    }

    /// Where a block lies, by its whole id.
    pub fn find(&self, id: &BlockId) -> Option<BlockAt> {
        self.found.get(id).copied()
    }

    /// Follows the index's hint for an id, if it has one.
    pub async fn follow_hint(&mut self, id: &BlockId) -> Result<()> {
        match self.shared.index.hint(id) {
            Some(hint) => self.activate(hint.at, NEIGHBOURS).await,
            None => Ok(()),
        }
    }

    /// Loads the ids of a frame and of `around` frames on each side. A pack that cannot be relied on is passed over:
    /// its blocks are then stored again.
    pub async fn activate(&mut self, at: FrameAt, around: u32) -> Result<()> {
        let range = at.frame.saturating_sub(around)..=at.frame.saturating_add(around);
        if range.clone().all(|frame| self.active.contains(&FrameAt { frame, ..at })) {
            return Ok(());
        }
        let loaded = match self.shared.pack(at.pack).await {
            Ok(info) => self.shared.ids(at.pack).await.map(|ids| (info, ids)),
            Err(error) => Err(error),
        };
        let (info, ids) = match loaded {
            Ok(loaded) => loaded,
            Err(error) if matches!(error.kind(), Kind::Damaged | Kind::NotFound) => return Ok(()),
            Err(error) => return Err(error),
        };
        for number in range {
            let at = FrameAt { frame: number, ..at };
            let Some(ids) = info.ids_of(number, &ids) else { continue };
            if self.excluded.allows(at) && self.active.insert(at) {
                self.hold(at, ids);
            }
        }
        Ok(())
    }

    fn hold(&mut self, at: FrameAt, ids: &[BlockId]) {
        for (id, block) in ids.iter().zip(0_u16..) {
            self.found.entry(*id).or_insert(BlockAt { at, block });
        }
        self.order.push_back((at, ids.to_vec()));
        while self.order.len() > FRAMES_HELD {
            let Some((old, ids)) = self.order.pop_front() else { break };
            self.active.remove(&old);
            for id in ids {
                if self.found.get(&id).is_some_and(|found| found.at == old) {
                    self.found.remove(&id);
                }
            }
        }
    }
}
