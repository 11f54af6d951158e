//! The mark that an open move puts on its source: no new run captures it.

use std::collections::BTreeSet;

use cloud::{Power, Server};
use jiff::Timestamp;
use model::{Error, Kind, Policy, Result, RunId, ServerName};

use super::{MoveRecord, MoveStage};
use crate::ledger::{self, Batch, Tree};
use crate::{Engine, Event, Problem};

impl Engine {
    pub(super) async fn move_records(&self) -> Result<Vec<MoveRecord>> {
        Ok(ledger::scan(&*self.ledger, Tree::Moves, "").await?.into_iter().map(|(_, record)| record).collect())
    }

    pub(super) async fn open_move(&self, server: &ServerName) -> Result<Option<MoveRecord>> {
        let open = |record: &MoveRecord| record.request.server == *server && record.stage.is_open();
        Ok(self.move_records().await?.into_iter().find(open))
    }

    /// The servers that new runs of the policy may capture, and those that were left out. A source whose move was confirmed is left out as
    /// long as it is off: it is nobody's any more, and its points would look newer than the new server's.
    pub(crate) async fn unmoved(
        &self,
        policy: &Policy,
        servers: Vec<Server>,
    ) -> Result<(Vec<Server>, Vec<ServerName>)> {
        let records = self.move_records().await?;
        let marked = |server: &Server| {
            records.iter().any(|record| {
                let gone = record.stage == MoveStage::Confirmed && server.power == Power::Off;
                record.site == policy.select.site
                    && record.request.server == server.name
                    && (record.stage.is_open() || gone)
            })
        };
        let (moved, rest): (Vec<_>, Vec<_>) = servers.into_iter().partition(marked);
        Ok((rest, moved.into_iter().map(|server| server.name).collect()))
    }

    /// The same for a run that a person asked for: who names a moved server is refused, others are told.
    pub(crate) async fn unmoved_or_told(
        &self,
        policy: &Policy,
        servers: Vec<Server>,
        named: Option<&ServerName>,
    ) -> Result<Vec<Server>> {
        let (rest, moved) = self.unmoved(policy, servers).await?;
        for server in moved {
            let what = format!("server {server} is not captured: it was moved, or is being moved");
            if named.is_some() {
                return Err(Error::new(Kind::Invalid, what).hint("see `replicate migrate status`"));
            }
            self.tell(Event::Warning { run: None, message: what });
        }
        Ok(rest)
    }

    /// When moves that stand still are tried again.
    pub(crate) async fn moves_due(&self) -> Result<Vec<Timestamp>> {
        Ok(self
            .move_records()
            .await?
            .into_iter()
            .filter(|record| record.stage.is_at_work())
            .filter_map(|record| record.next_try)
            .collect())
    }

    /// The restores of open moves: they are the moves' to finish or to clean up.
    pub(crate) async fn moving(&self) -> Result<BTreeSet<RunId>> {
        let open = self.move_records().await?.into_iter().filter(|record| record.stage.is_open());
        Ok(open.filter_map(|record| record.restore).collect())
    }

    /// Leaves it to a person what becomes of open moves: the ledger is older than the world, and either server may be the one in use.
    pub(crate) async fn doubt_moves(&self, batch: &mut Batch) -> Result<()> {
        for mut record in self.move_records().await?.into_iter().filter(|record| record.stage.is_at_work()) {
            let error =
                Error::new(Kind::Cancelled, format!("the move of server {} was left as it is", record.request.server))
                    .because("the ledger is older than what vaults and sites hold");
            record.stage = MoveStage::Moved;
            record.problem = Some(Problem::from(&error));
            batch.put(Tree::Moves, record.id.as_str(), &record)?;
        }
        Ok(())
    }
}
