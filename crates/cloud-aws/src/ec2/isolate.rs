//! The security group of an isolated instance: nothing comes in and nothing goes out.

use aws_sdk_ec2::types as ec2;
use model::{Error, Kind, Result, Role, Tags, Token, crash};

use super::config::{Clients, LaunchSpec};
use super::error::classify;
use super::marks;
use super::wait::Bound;

/// A group that is ours.
pub(super) struct Group {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) tags: Tags,
    egress: Vec<ec2::IpPermission>,
}

/// All groups that fit all filters.
pub(super) async fn list(clients: &Clients, filters: Vec<ec2::Filter>) -> Result<Vec<Group>> {
    let call = clients.ec2.describe_security_groups().set_filters(Some(filters)).max_results(1000);
    let mut pages = call.into_paginator().send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| classify("cannot list security groups", error))?;
        found.extend(page.security_groups().iter().map(|group| Group {
            id: group.group_id().unwrap_or_default().to_owned(),
            name: group.group_name().unwrap_or_default().to_owned(),
            tags: marks::of_ec2(group.tags()),
            egress: group.ip_permissions_egress().to_vec(),
        }));
    }
    Ok(found)
}

/// The network that an instance will be in.
async fn vpc(clients: &Clients, spec: &LaunchSpec) -> Result<String> {
    let operation = "cannot find the network of an isolated server";
    let found = match &spec.subnet {
        Some(subnet) => {
            let answer = clients.ec2.describe_subnets().subnet_ids(subnet).send().await;
            let answer = answer.map_err(|error| classify(operation, error))?;
            answer.subnets().first().and_then(|subnet| subnet.vpc_id().map(str::to_owned))
        }
        None => {
            let answer = clients.ec2.describe_vpcs().filters(marks::filter("is-default", "true")).send().await;
            let answer = answer.map_err(|error| classify(operation, error))?;
            answer.vpcs().first().and_then(|vpc| vpc.vpc_id().map(str::to_owned))
        }
    };
    found.ok_or_else(|| {
        Error::new(Kind::Invalid, operation)
            .because("there is no default VPC")
            .hint("name a `subnet` in the site's `restore`")
    })
}

/// The group of a token's instance: made if it is not there, and without any rule.
pub(super) async fn group(clients: &Clients, spec: &LaunchSpec, token: &Token) -> Result<String> {
    let (vpc, name) = (vpc(clients, spec).await?, token.name());
    let operation = format!("cannot make security group {name}");
    let filters = || vec![marks::filter("group-name", &name), marks::filter("vpc-id", &vpc)];
    if list(clients, filters()).await?.is_empty() {
        let tags = marks::specification(ec2::ResourceType::SecurityGroup, &token.tags(Role::Scratch));
        let call = clients.ec2.create_security_group().group_name(&name).vpc_id(&vpc);
        crash::point("aws.group-create.before");
        let made = call.description("replicate: isolated drill").tag_specifications(tags).send().await;
        crash::point("aws.group-create.after");
        match made.map_err(|error| classify(&operation, error)) {
            // by a call whose answer was lost
            Err(error) if error.kind() != Kind::Exists => return Err(error),
            _ => {}
        }
    }
    let mut bound = Bound::new(&operation);
    loop {
        let found = list(clients, filters()).await;
        let Some(found) = bound.bear(found).await? else { continue };
        match found.into_iter().next() {
            Some(group) if group.egress.is_empty() => return Ok(group.id),
            // a new group lets everything out
            Some(group) => {
                crash::point("aws.group-close.before");
                let call = clients.ec2.revoke_security_group_egress().group_id(&group.id);
                let closed = call.set_ip_permissions(Some(group.egress)).send().await;
                crash::point("aws.group-close.after");
                match closed.map_err(|error| classify(&operation, error)) {
                    Err(error) if error.kind() != Kind::NotFound => return Err(error),
                    _ => bound.pause("it is not closed yet").await?,
                }
            }
            None => bound.pause("it is not visible").await?,
        }
    }
}

/// Deletes a group. Absent is success.
pub(super) async fn delete(clients: &Clients, id: &str) -> Result<()> {
    let mut bound = Bound::new(format!("cannot delete security group {id}"));
    loop {
        crash::point("aws.group-delete.before");
        let answer = clients.ec2.delete_security_group().group_id(id).send().await;
        crash::point("aws.group-delete.after");
        match answer.map_err(|error| classify(format!("cannot delete security group {id}"), error)) {
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            // an instance is still going
            Err(error) if error.kind().is_retryable() => drop(bound.bear::<()>(Err(error)).await?),
            done => return done.map(drop),
        }
    }
}
