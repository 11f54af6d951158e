//! Rebuilds the catalogue from what vaults and sites hold: after the ledger was lost, damaged or rolled back. Nothing is captured or deleted.
//! What is found counts as committed until it is verified again; proofs are taken over from their files.

use std::collections::{BTreeMap, BTreeSet};

use model::{Place, PointId, Replica, ReplicaState, RestorePoint, Result, crash};

use crate::ledger::{Batch, Tree};
use crate::records::{point_key, replica_key};
use crate::{AdoptReport, Engine, Problem, SignedProof, verify_proof};

impl Engine {
    /// Rebuilds the catalogue. Of places that do not answer, what the ledger has stays as it is.
    pub async fn adopt(&self) -> Result<AdoptReport> {
        let recalled = self.recall_now().await?;
        let before = self.catalogue().await?;
        let mut known: BTreeMap<(PointId, Place), Replica> =
            before.replicas.into_iter().map(|r| ((r.point.clone(), r.place.clone()), r)).collect();
        let mut points: BTreeMap<PointId, RestorePoint> = before.points.clone();
        let mut report = AdoptReport { added: recalled, ..AdoptReport::default() };
        let mut batch = Batch::new();
        for place in self.places() {
            let held = match self.held(&place).await {
                Ok(held) => held,
                Err(error) => {
                    report.problems.push(Problem::from(&error.within(format!("cannot adopt from {place}"))));
                    continue;
                }
            };
            let mut seen = BTreeSet::new();
            for held in held {
                let point = held.point;
                seen.insert(point.id.clone());
                let entry = known.entry((point.id.clone(), place.clone())).or_insert_with(|| {
                    report.added += 1;
                    fresh(&point.id, &place)
                });
                entry.image = held.image;
                batch.put(Tree::Replicas, replica_key(&point.id, &place), entry)?;
                batch.put(Tree::Points, point_key(&point), &point)?;
                points.insert(point.id.clone(), point);
            }
            let gone: Vec<_> = known.keys().filter(|(p, at)| *at == place && !seen.contains(p)).cloned().collect();
            for (point, place) in gone {
                batch.delete(Tree::Replicas, replica_key(&point, &place));
                known.remove(&(point.clone(), place.clone()));
                report.gone.push((point, place));
            }
        }
        self.adopt_proofs(&points, &mut known, &mut batch, &mut report)?;
        let left: BTreeSet<&PointId> = known.keys().map(|(point, _)| point).collect();
        for point in points.values().filter(|point| !left.contains(&point.id)) {
            batch.delete(Tree::Points, point_key(point));
        }
        report.points = left.len();
        report.replicas = known.len();
        crash::point("adopt.commit.before");
        self.ledger.commit(batch).await?;
        crash::point("adopt.commit.after");
        Ok(report)
    }

    /// Takes over receipts that lie beside the ledger and that this installation signed.
    fn adopt_proofs(
        &self,
        points: &BTreeMap<PointId, RestorePoint>,
        known: &mut BTreeMap<(PointId, Place), Replica>,
        batch: &mut Batch,
        report: &mut AdoptReport,
    ) -> Result<()> {
        let Some(folder) = self.folder.as_ref().map(|folder| folder.join("proofs")) else { return Ok(()) };
        let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(()) };
        for path in entries.flatten().map(|entry| entry.path()).filter(|p| p.extension().is_some_and(|e| e == "json")) {
            let signed: Option<SignedProof> = std::fs::read(&path).ok().and_then(|b| serde_json::from_slice(&b).ok());
            let checked = signed.and_then(|signed| {
                let proof = verify_proof(&signed, Some(&self.proof_key())).ok()?;
                Some((signed, proof))
            });
            let Some((signed, proof)) = checked else {
                let operation = format!("cannot adopt proof {}", path.display());
                let error = model::Error::new(model::Kind::Damaged, operation);
                report.problems.push(Problem::from(&error.because("this installation did not sign its text")));
                continue;
            };
            batch.put(Tree::Proofs, format!("{}/{}", proof.server, proof.run), &signed)?;
            let same = points.get(&proof.point).is_some_and(|point| point.disks == proof.disks);
            let key = (proof.point.clone(), proof.from.clone());
            if let (true, true, Some(replica)) = (proof.passed, same, known.get_mut(&key)) {
                // every byte was read and booted then
                replica.proven_at = replica.proven_at.max(Some(proof.started_at));
                replica.verified_at = replica.verified_at.max(Some(proof.started_at));
                if matches!(replica.state, ReplicaState::Committed | ReplicaState::Verified) {
                    replica.state = ReplicaState::Proven;
                }
                batch.put(Tree::Replicas, replica_key(&replica.point, &replica.place), replica)?;
            }
        }
        Ok(())
    }
}

/// A replica of which nothing is known yet but that it is there.
pub(crate) fn fresh(point: &PointId, place: &Place) -> Replica {
    Replica {
        point: point.clone(),
        place: place.clone(),
        image: None,
        state: ReplicaState::Committed,
        verified_at: None,
        proven_at: None,
        doomed_at: None,
        unprotected_at: None,
        hidden: false,
        published: None,
        stored_bytes: 0,
    }
}
