//! The role [`Switch`] of a project: `os-stop` lets a system shut down in order, and cuts its power after the time that the cloud or its
//! image grants (`os_shutdown_timeout`), whatever is asked here.

use async_trait::async_trait;
use model::{Error, Kind, Result, ServerName};
use serde_json::json;
use tokio::time::Instant;

use super::inventory;
use crate::openstack::OpenStackSite;
use crate::openstack::api::nova::Nova;
use crate::openstack::wait::Bound;
use crate::{Stop, Switch, stays_on};

#[async_trait]
impl Switch for OpenStackSite {
    async fn stop(&self, server: &ServerName, stop: Stop) -> Result<()> {
        let until = Instant::now() + stop.limit;
        switch(self, server, "stop", "SHUTOFF", || match stop.force || Instant::now() < until {
            true => Ok(()),
            false => Err(stays_on(server, stop)),
        })
        .await
    }

    async fn start(&self, server: &ServerName) -> Result<()> {
        switch(self, server, "start", "ACTIVE", || Ok(())).await
    }
}

/// Orders it once, unless it is so already, and waits until it is so and nothing is under way.
async fn switch(
    site: &OpenStackSite,
    server: &ServerName,
    what: &str,
    wanted: &str,
    late: impl Fn() -> Result<()> + Send + Sync,
) -> Result<()> {
    let nova = Nova(&site.client);
    let id = inventory::look(&site.client, server).await?.record.id;
    let mut bound = Bound::new(format!("cannot {what} server {server}"));
    let mut ordered = false;
    loop {
        let found = bound.look(|| nova.server(&id)).await?;
        let found = found.ok_or_else(|| bound.error(Kind::NotFound, "it is gone"))?;
        let idle = found.task.is_none();
        match found.status.as_str() {
            status if idle && status == wanted => return Ok(()),
            "ACTIVE" | "SHUTOFF" if idle && !ordered => {
                let order = format!("os-{what}");
                model::crash::point(&format!("openstack.{what}.before"));
                nova.action(&id, what, &json!({ order: null })).await?;
                model::crash::point(&format!("openstack.{what}.after"));
                ordered = true;
            }
            "ACTIVE" | "SHUTOFF" => {
                late()?;
                bound.idle(idle, &format!("it is {}", found.status)).await?;
            }
            status => {
                return Err(Error::new(Kind::Permanent, format!("cannot {what} server {server}"))
                    .because(format!("it is {status}"))
                    .hint("bring it to ACTIVE or SHUTOFF first"));
            }
        }
    }
}
