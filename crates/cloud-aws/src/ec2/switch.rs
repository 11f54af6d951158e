//! The role [`Switch`]: `StopInstances` lets a system shut down in order, and EC2 cuts its power by itself after some minutes.

use async_trait::async_trait;
use aws_sdk_ec2::types::InstanceStateName as State;
use cloud::{Stop, Switch, stays_on};
use model::{Kind, Result, ServerName, crash};
use tokio::time::Instant;

use super::config::Clients;
use super::error::classify;
use super::wait::Bound;
use super::{AwsSite, instance, inventory};

#[async_trait]
impl Switch for AwsSite {
    async fn stop(&self, server: &ServerName, stop: Stop) -> Result<()> {
        let clients = self.clients().await?;
        let id = inventory::one(clients, server).await?.id;
        let (until, mut asked) = (Instant::now() + stop.limit, false);
        let mut forced = false;
        let mut bound = Bound::new(format!("cannot stop server {server}"));
        loop {
            let Some(found) = bound.bear(instance::show(clients, &id).await).await? else { continue };
            match instance::state(&found) {
                State::Stopped => return Ok(()),
                State::Terminated | State::ShuttingDown => return Err(bound.error(Kind::NotFound, "it is terminated")),
                State::Running if !asked => {
                    order_stop(clients, &id, false).await?;
                    asked = true;
                }
                _ if Instant::now() >= until && !stop.force => return Err(stays_on(server, stop)),
                State::Stopping if Instant::now() >= until && !forced => {
                    order_stop(clients, &id, true).await?;
                    forced = true;
                }
                state => bound.pause(&format!("it is {state}")).await?,
            }
        }
    }

    async fn start(&self, server: &ServerName) -> Result<()> {
        let clients = self.clients().await?;
        let id = inventory::one(clients, server).await?.id;
        let mut asked = false;
        let mut bound = Bound::new(format!("cannot start server {server}"));
        loop {
            let Some(found) = bound.bear(instance::show(clients, &id).await).await? else { continue };
            match instance::state(&found) {
                State::Running => return Ok(()),
                State::Terminated | State::ShuttingDown => return Err(bound.error(Kind::NotFound, "it is terminated")),
                // one that is stopping cannot be started before it has stopped
                State::Stopped if !asked => {
                    crash::point("aws.instance-start.before");
                    let answer = clients.ec2.start_instances().instance_ids(&id).send().await;
                    crash::point("aws.instance-start.after");
                    answer.map_err(|error| classify(format!("cannot start instance {id}"), error))?;
                    asked = true;
                }
                state => bound.pause(&format!("it is {state}")).await?,
            }
        }
    }
}

async fn order_stop(clients: &Clients, id: &str, force: bool) -> Result<()> {
    crash::point("aws.instance-stop.before");
    let answer = clients.ec2.stop_instances().instance_ids(id).force(force).send().await;
    crash::point("aws.instance-stop.after");
    answer.map(drop).map_err(|error| classify(format!("cannot stop instance {id}"), error))
}
