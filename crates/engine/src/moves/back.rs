//! The way back: what was launched goes first, then the source is started.

use cloud::{Power, Stop};
use model::{Error, Kind, Result, crash};

use super::{MoveEnd, MoveRecord, MoveStage, Stage};
use crate::ledger::Batch;
use crate::records::{RunRecord, RunState};
use crate::restore::LAUNCH;
use crate::{Engine, Event, RunOutcome};

impl Engine {
    pub(super) async fn roll_back(&self, record: &mut MoveRecord) -> Stage {
        if let Some(id) = &record.restore
            && let Some(run) = self.run_record(id).await?
        {
            let _active = self.activate(&run.id);
            self.take_away(record, run).await?;
        }
        if record.was_on {
            crash::point("move.start.before");
            self.switch_of(record)?.start(&record.request.server).await?;
            crash::point("move.start.after");
        }
        if record.back.is_some() {
            record.problem = None;
        }
        (record.stage, record.finished_at) = (MoveStage::RolledBack, Some(self.now()));
        Ok(self.save_move(record).await?)
    }

    /// Sees that nothing runs at the new site. Where no launch had begun, a site that does not answer cannot hold the source up.
    async fn take_away(&self, record: &MoveRecord, mut run: RunRecord) -> Result<()> {
        let open = run.state == RunState::Open;
        if open && let Some(unseen) = self.unseen(&mut run).await? {
            self.save_run(&run).await?;
            return Err(unseen);
        }
        let launched = run.outcome == Some(RunOutcome::Done) || (open && self.step_known(&run.id, LAUNCH).await?);
        let kept = launched && record.back == Some(MoveEnd::Keep) && self.instance_of(&run).await?.is_some();
        if kept {
            let stop = Stop { limit: record.request.stop_limit, force: record.request.force };
            let switch = self
                .site(&record.request.to)?
                .switch()
                .ok_or_else(|| Error::new(Kind::Invalid, format!("site {} switches no servers", record.request.to)))?;
            crash::point("move.keep.before");
            switch.stop(record.request.new_name(), stop).await?;
            crash::point("move.keep.after");
        } else if launched && let Some(instance) = self.instance_of(&run).await? {
            crash::point("move.destroy.before");
            self.target(&record.request.to)?.destroy(&instance).await?;
            crash::point("move.destroy.after");
        }
        self.nobody_there(record, launched).await?;
        if open {
            return match launched && kept {
                true => self.close_short_run(run, RunOutcome::Done, None, Batch::new()).await,
                false => self.clean_up(run).await.map(drop),
            };
        }
        if launched && !kept {
            // it does not run any more: what is left of it must not hold the source up
            if let Err(error) = self.everything_gone(&run).await {
                let message = format!("what the move has made is not all deleted: {}", error.chain());
                self.tell(Event::Warning { run: Some(run.id), message });
            }
        }
        Ok(())
    }

    /// The ledger may be older than a move that went well: then a server runs there that it has not heard of.
    async fn nobody_there(&self, record: &MoveRecord, launched: bool) -> Result<()> {
        let (to, name) = (&record.request.to, record.request.new_name());
        let Some(source) = self.site(to)?.source() else { return Ok(()) };
        match source.describe(name).await {
            Ok(server) if server.power == Power::On => {
                Err(Error::new(Kind::Permanent, format!("cannot start server {} again", record.request.server))
                    .because(format!("a server {name} runs at site {to}, and both would run"))
                    .hint(format!(
                        "see whether it is the moved one; if not, stop it and give `replicate migrate rollback {}`",
                        record.request.server
                    )))
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == Kind::NotFound || !launched => Ok(()),
            Err(error) => Err(error),
        }
    }
}
