//! The EC2 query API: parameters in a form, XML back.

mod copy;
mod filter;
mod find;
mod image_attributes;
mod images;
mod instances;
pub(crate) mod keys;
mod launch;
mod network;
mod page;
pub(crate) mod params;
mod register;
mod snapshot_attributes;
pub(crate) mod snapshots;
mod tags;
pub(crate) mod types;
mod volumes;
pub(crate) mod xml;

use crate::auth::Caller;
use crate::error::{Answer, ApiError};
use crate::http::Response;
use crate::sim::Sim;
use find::Cx;
use params::Params;
use xml::{Xml, document, node, text};

const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

type Operation = fn(&Cx<'_>, &Params) -> Answer<Vec<Xml>>;

fn operation(name: &str) -> Option<Operation> {
    Some(match name {
        "AttachVolume" => volumes::attach,
        "CopyImage" => copy::image,
        "CopySnapshot" => copy::snapshot,
        "CreateImage" => register::create,
        "CreateSecurityGroup" => network::create_group,
        "CreateSnapshot" => snapshots::create,
        "CreateSnapshots" => snapshots::create_many,
        "CreateTags" => tags::create,
        "CreateVolume" => volumes::create,
        "DeleteSecurityGroup" => network::delete_group,
        "DeleteSnapshot" => snapshots::delete,
        "DeleteTags" => tags::delete,
        "DeleteVolume" => volumes::delete,
        "DeregisterImage" => images::deregister,
        "DescribeAvailabilityZones" => network::availability_zones,
        "DescribeImageAttribute" => image_attributes::describe,
        "DescribeImages" => images::describe,
        "DescribeInstanceAttribute" => instances::attribute,
        "DescribeInstanceStatus" => instances::status,
        "DescribeInstanceTypes" => types::describe,
        "DescribeInstances" => instances::describe,
        "DescribeKeyPairs" => network::key_pairs,
        "DescribeLaunchTemplateVersions" => network::template_versions,
        "DescribeLaunchTemplates" => network::templates,
        "DescribeLockedSnapshots" => snapshot_attributes::locked,
        "DescribeRegions" => network::regions,
        "DescribeSecurityGroups" => network::groups,
        "DescribeSnapshotAttribute" => snapshot_attributes::describe,
        "DescribeSnapshots" => snapshots::describe,
        "DescribeSubnets" => network::subnets,
        "DescribeTags" => tags::describe,
        "DescribeVolumes" => volumes::describe,
        "DescribeVpcs" => network::vpcs,
        "DetachVolume" => volumes::detach,
        "DisableImageDeprecation" => image_attributes::undeprecate,
        "DisableImageDeregistrationProtection" => image_attributes::unprotect,
        "EnableImageDeprecation" => image_attributes::deprecate,
        "EnableImageDeregistrationProtection" => image_attributes::protect,
        "GetConsoleOutput" => instances::console,
        "GetInstanceUefiData" => instances::uefi_data,
        "LockSnapshot" => snapshot_attributes::lock,
        "ModifyImageAttribute" => image_attributes::modify,
        "ModifySnapshotAttribute" => snapshot_attributes::modify,
        "RegisterImage" => register::register,
        "RevokeSecurityGroupEgress" => network::revoke_egress,
        "RunInstances" => launch::run,
        "StartInstances" => instances::start,
        "StopInstances" => instances::stop,
        "TerminateInstances" => instances::terminate,
        "UnlockSnapshot" => snapshot_attributes::unlock,
        _ => return None,
    })
}

/// Does what a request asks for.
pub(crate) fn call(sim: &Sim, caller: &Caller, request_id: &str, name: &str, params: &Params) -> Answer<Response> {
    let operation = operation(name).ok_or_else(|| {
        ApiError::refuse("InvalidAction", format!("The action {name} is not valid for this web service."))
    })?;
    let cx = Cx { sim, caller };
    let mut body = vec![text("requestId", request_id)];
    body.extend(operation(&cx, params)?);
    let xml = document(&format!("{name}Response"), Some(NAMESPACE), &body);
    Ok(Response::new(200, "text/xml;charset=UTF-8", xml))
}

/// An error in this API's envelope.
pub(crate) fn refusal(error: &ApiError, request_id: &str) -> Response {
    let one = node("Error", vec![text("Code", &error.code), text("Message", &error.message)]);
    let body = [node("Errors", vec![one]), text("RequestID", request_id)];
    Response::new(error.status, "text/xml;charset=UTF-8", document("Response", None, &body))
}
