//! Instances that were launched: found again, looked at, taken away.
//!
//! An instance's id is EC2's, a slash, and the token's name, under which its security group is found even when EC2
//! has forgotten the instance.

use std::net::IpAddr;

use aws_sdk_ec2::types as ec2;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cloud::ProbeState;
use model::{Error, InstanceId, Kind, Result, Tags, crash, tag};

use super::config::Clients;
use super::error::classify;
use super::wait::Bound;
use super::{isolate, marks};

/// EC2's id, and the token's name.
fn parts(instance: &InstanceId) -> (&str, Option<&str>) {
    match instance.as_str().split_once('/') {
        Some((id, name)) => (id, Some(name)),
        None => (instance.as_str(), None),
    }
}

/// All instances that fit all filters and are not gone.
pub(super) async fn list(clients: &Clients, filters: Vec<ec2::Filter>) -> Result<Vec<ec2::Instance>> {
    let mut pages = clients.ec2.describe_instances().set_filters(Some(filters)).into_paginator().send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| classify("cannot list instances", error))?;
        let all = page.reservations().iter().flat_map(|it| it.instances());
        found.extend(all.filter(|it| state(it) != ec2::InstanceStateName::Terminated).cloned());
    }
    Ok(found)
}

/// The state of an instance.
pub(super) fn state(instance: &ec2::Instance) -> ec2::InstanceStateName {
    instance.state().and_then(|it| it.name()).cloned().unwrap_or(ec2::InstanceStateName::Pending)
}

/// The instance that carries these tags.
pub(super) async fn find(clients: &Clients, tags: &Tags) -> Result<Option<String>> {
    let filters = [tag::OWNER, tag::RUN, tag::STEP].map(|key| marks::tagged(key, tags.get(key).map(String::as_str)));
    let found = list(clients, filters.to_vec()).await?;
    let alive = |it: &&ec2::Instance| state(it) != ec2::InstanceStateName::ShuttingDown;
    Ok(found.iter().find(alive).and_then(|it| it.instance_id().map(str::to_owned)))
}

pub(super) async fn show(clients: &Clients, id: &str) -> Result<ec2::Instance> {
    let operation = || format!("cannot find instance {id}");
    let answer = clients.ec2.describe_instances().instance_ids(id).send().await;
    let answer = answer.map_err(|error| classify(operation(), error))?;
    let found = answer.reservations().iter().flat_map(|it| it.instances()).next().cloned();
    found.ok_or_else(|| Error::new(Kind::NotFound, operation()))
}

/// Waits until an instance runs, or has run. Answers its address: the public one, if it has one.
pub(super) async fn wait_running(clients: &Clients, id: &str) -> Result<Option<IpAddr>> {
    let mut bound = Bound::new(format!("cannot start instance {id}"));
    loop {
        let looked = show(clients, id).await;
        if looked.as_ref().is_err_and(|error| error.kind() == Kind::NotFound) {
            bound.pause("it is not visible").await?;
            continue;
        }
        let Some(instance) = bound.bear(looked).await? else { continue };
        match state(&instance) {
            ec2::InstanceStateName::Pending => bound.pause("it is pending").await?,
            // a guest that powered off at once has run
            ec2::InstanceStateName::Running | ec2::InstanceStateName::Stopped | ec2::InstanceStateName::Stopping => {
                let address = instance.public_ip_address().or(instance.private_ip_address());
                return Ok(address.and_then(|address| address.parse().ok()));
            }
            state => {
                let why = instance.state_reason().and_then(|it| it.message()).unwrap_or("EC2 does not say why");
                let full = why.contains("InsufficientInstanceCapacity") || why.contains("LimitExceeded");
                let kind = if full { Kind::Quota } else { Kind::Permanent };
                return Err(bound.error(kind, format!("it is {state}: {why}")));
            }
        }
    }
}

/// Looks at an instance.
pub(super) async fn probe(clients: &Clients, instance: &InstanceId) -> Result<ProbeState> {
    let found = show(clients, parts(instance).0).await?;
    let running = state(&found) == ec2::InstanceStateName::Running;
    let panicked = running && console(clients, instance).await?.contains("Kernel panic - not syncing");
    Ok(ProbeState { running, agent: false, panicked })
}

/// The console so far; nothing of an instance that has none yet.
pub(super) async fn console(clients: &Clients, instance: &InstanceId) -> Result<String> {
    let id = parts(instance).0;
    let operation = || format!("cannot read the console of instance {id}");
    let answer = clients.ec2.get_console_output().instance_id(id).latest(true).send().await;
    let answer = match answer.map_err(|error| classify(operation(), error)) {
        // types that are not on Nitro keep the console of their start only
        Err(error) if error.kind() == Kind::Invalid => {
            let answer = clients.ec2.get_console_output().instance_id(id).send().await;
            answer.map_err(|error| classify(operation(), error))?
        }
        answer => answer?,
    };
    let bytes = STANDARD.decode(answer.output().unwrap_or_default().trim());
    let bytes = bytes.map_err(|error| Error::new(Kind::Transient, operation()).because(error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Terminates an instance, waits until it is gone, and deletes its group. Its volumes go with it. Absent is success.
pub(super) async fn destroy(clients: &Clients, instance: &InstanceId) -> Result<()> {
    let (id, name) = parts(instance);
    crash::point("aws.instance-terminate.before");
    let answer = clients.ec2.terminate_instances().instance_ids(id).send().await;
    crash::point("aws.instance-terminate.after");
    match answer.map_err(|error| classify(format!("cannot terminate instance {id}"), error)) {
        Err(error) if error.kind() == Kind::NotFound => {}
        Err(error) => return Err(error),
        Ok(_) => wait_gone(clients, id).await?,
    }
    let Some(name) = name else { return Ok(()) };
    for group in isolate::list(clients, vec![marks::filter("group-name", name)]).await? {
        if group.name == name && marks::ours(&group.tags).is_some() {
            isolate::delete(clients, &group.id).await?;
        }
    }
    Ok(())
}

async fn wait_gone(clients: &Clients, id: &str) -> Result<()> {
    let mut bound = Bound::new(format!("cannot terminate instance {id}"));
    loop {
        match show(clients, id).await {
            Ok(found) if state(&found) == ec2::InstanceStateName::Terminated => return Ok(()),
            Ok(found) => bound.pause(&format!("it is {}", state(&found))).await?,
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            Err(error) => drop(bound.bear::<()>(Err(error)).await?),
        }
    }
}
