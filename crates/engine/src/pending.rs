//! Signatures of verbs that are being built; each moves to its own file as it lands, and this file goes.

use jiff::Timestamp;
use model::{Error, Kind, PolicyName, Result, ServerName};

use crate::*;

fn pending<T>(verb: &str) -> Result<T> {
    Err(Error::new(Kind::Permanent, format!("`{verb}` is not built yet")))
}

impl Engine {
    /// What runs would do now.
    pub async fn plan(&self, _policy: Option<&PolicyName>) -> Result<PlanReport> {
        pending("plan")
    }
    /// Runs everything that is due, once.
    pub async fn run_due(&self) -> Result<RunsReport> {
        pending("run_due")
    }
    /// When the next run is due.
    pub async fn next_due(&self) -> Result<Option<Timestamp>> {
        pending("next_due")
    }
    /// Per server: last point, lag, proof, what is stuck.
    pub async fn status(&self) -> Result<StatusReport> {
        pending("status")
    }
    /// Points and their replicas, newest first.
    pub async fn points(&self, _server: Option<&ServerName>) -> Result<Vec<PointReport>> {
        pending("points")
    }
    /// Reads replicas back.
    pub async fn verify(&self, _request: &VerifyRequest) -> Result<VerifyReport> {
        pending("verify")
    }
    /// Retention, two-phase.
    pub async fn prune(&self, _request: &PruneRequest) -> Result<PruneReport> {
        pending("prune")
    }
    /// Rebuilds the catalogue from vaults and sites.
    pub async fn adopt(&self) -> Result<AdoptReport> {
        pending("adopt")
    }
}
