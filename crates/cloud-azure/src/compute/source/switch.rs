//! The role [`Switch`] of a resource group. `powerOff` lets a system shut down in order, and cuts its power after some minutes by itself; the
//! machine stays allocated, so that it can be started again whatever the region has left.

use async_trait::async_trait;
use model::{Result, ServerName};
use serde_json::Value;

use super::super::AzureSite;
use super::super::arm::What;
use super::{Seen, look};
use cloud::{Power, Stop, Switch, stays_on};

#[async_trait]
impl Switch for AzureSite {
    async fn stop(&self, server: &ServerName, stop: Stop) -> Result<()> {
        let client = self.client()?;
        let Seen { machine, power, .. } = look(client, server).await?;
        if power == Power::Off {
            return Ok(());
        }
        let off = client.act(What::Machine, &machine.name, "powerOff", &Value::Null);
        match stop.force {
            true => off.await.map(drop),
            false => match tokio::time::timeout(stop.limit, off).await {
                Ok(done) => done.map(drop),
                Err(_) => Err(stays_on(server, stop)),
            },
        }
    }

    async fn start(&self, server: &ServerName) -> Result<()> {
        let client = self.client()?;
        let Seen { machine, .. } = look(client, server).await?;
        let view = client.instance_view(&machine.name).await?;
        let mut codes = view.get("statuses").and_then(Value::as_array).into_iter().flatten();
        if codes.any(|status| status.get("code").and_then(Value::as_str) == Some("PowerState/running")) {
            return Ok(());
        }
        // one that is stopping still is a conflict, which is tried again until it has stopped
        client.act(What::Machine, &machine.name, "start", &Value::Null).await.map(drop)
    }
}
