//! A few instance types: enough to choose among, of both architectures.

use super::filter;
use super::find::Cx;
use super::page;
use super::params::Params;
use super::xml::{Xml, node, text, values};
use crate::error::{Answer, ApiError};
use crate::world::resource::Tags;

/// A type.
#[derive(Debug)]
pub(crate) struct Type {
    pub(crate) name: &'static str,
    pub(crate) architecture: &'static str,
    pub(crate) vcpus: u32,
    pub(crate) memory_mib: u64,
}

const fn x86(name: &'static str, vcpus: u32, memory_mib: u64) -> Type {
    Type { name, architecture: "x86_64", vcpus, memory_mib }
}

const TYPES: [Type; 11] = [
    x86("t3.nano", 2, 512),
    x86("t3.micro", 2, 1024),
    x86("t3.small", 2, 2048),
    x86("t3.medium", 2, 4096),
    x86("t3.large", 2, 8192),
    x86("m5.large", 2, 8192),
    x86("m5.xlarge", 4, 16_384),
    x86("c5.large", 2, 4096),
    x86("r5.large", 2, 16_384),
    Type { name: "t4g.micro", architecture: "arm64", vcpus: 2, memory_mib: 1024 },
    Type { name: "m6g.large", architecture: "arm64", vcpus: 2, memory_mib: 8192 },
];

/// A type by its name.
pub(crate) fn find(name: &str) -> Option<&'static Type> {
    TYPES.iter().find(|it| it.name == name)
}

fn info(it: &Type) -> Vec<Xml> {
    vec![
        text("instanceType", it.name),
        text("currentGeneration", true),
        text("freeTierEligible", it.name == "t3.micro"),
        values("supportedUsageClasses", ["on-demand", "spot"]),
        values("supportedRootDeviceTypes", ["ebs"]),
        values("supportedVirtualizationTypes", ["hvm"]),
        values(
            "supportedBootModes",
            if it.architecture == "arm64" { vec!["uefi"] } else { vec!["legacy-bios", "uefi"] },
        ),
        text("bareMetal", false),
        text("hypervisor", "nitro"),
        node("processorInfo", vec![values("supportedArchitectures", [it.architecture])]),
        node("vCpuInfo", vec![text("defaultVCpus", it.vcpus), text("defaultCores", it.vcpus.div_ceil(2))]),
        node("memoryInfo", vec![text("sizeInMiB", it.memory_mib)]),
        text("instanceStorageSupported", false),
        node(
            "ebsInfo",
            vec![
                text("ebsOptimizedSupport", "default"),
                text("encryptionSupport", "supported"),
                text("nvmeSupport", "required"),
            ],
        ),
        node("networkInfo", vec![text("enaSupport", "required"), text("maximumNetworkInterfaces", 3)]),
        text("burstablePerformanceSupported", it.name.starts_with('t')),
        text("hibernationSupported", false),
    ]
}

pub(crate) fn describe(cx: &Cx<'_>, params: &Params) -> Answer<Vec<Xml>> {
    let names = params.list("InstanceType");
    let known = ["instance-type", "processor-info.supported-architecture", "current-generation", "hypervisor"];
    let filters = filter::read(params, &known)?;
    let page = page::read(params, "DescribeInstanceTypes", (5, 100), !names.is_empty())?;
    params.done()?;
    if let Some(unknown) = names.iter().find(|name| find(name).is_none()) {
        let message = format!("The following supplied instance types do not exist: [{unknown}]");
        return Err(ApiError::refuse("InvalidInstanceType", message));
    }
    let items = TYPES.iter().filter(|it| {
        let fields = vec![
            ("instance-type", it.name.to_owned()),
            ("processor-info.supported-architecture", it.architecture.to_owned()),
            ("current-generation", "true".to_owned()),
            ("hypervisor", "nitro".to_owned()),
        ];
        (names.is_empty() || names.iter().any(|name| name == it.name))
            && filter::all_fit(&filters, &fields, &Tags::new())
    });
    Ok(page.of(cx, "instanceTypeSet", items.map(|it| (it.name.to_owned(), info(it))).collect()))
}
