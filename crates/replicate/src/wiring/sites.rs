//! Opens sites.

use std::sync::Arc;

use cloud::openstack::{OpenStackConfig, OpenStackSite};
use cloud::qemu::{self, QemuConfig, QemuSite, TargetConfig};
use cloud::{Cloud, RetryOptions, Retrying};
#[cfg(feature = "aws")]
use cloud_aws::ec2::{AwsConfig, AwsSite};
#[cfg(feature = "azure")]
use cloud_azure::compute::{AzureConfig, AzureSite};
use model::{Clock, SiteName};

#[cfg(feature = "aws")]
use crate::config::AwsSettings;
#[cfg(feature = "azure")]
use crate::config::AzureSettings;
use crate::config::{Accelerator, Format, OpenStackSettings, QemuSettings, SiteSettings};

/// Opens a site, with retries around it. Touches nothing yet.
pub fn open_site(name: &SiteName, settings: &SiteSettings, clock: &Arc<dyn Clock>) -> Arc<dyn Cloud> {
    let inner: Arc<dyn Cloud> = match settings {
        SiteSettings::Qemu(qemu) => Arc::new(QemuSite::new(qemu_config(name, qemu), Arc::clone(clock))),
        SiteSettings::OpenStack(settings) => Arc::new(OpenStackSite::new(openstack_config(name, settings))),
        #[cfg(feature = "aws")]
        SiteSettings::Aws(settings) => Arc::new(AwsSite::new(aws_config(name, settings), Arc::clone(clock))),
        #[cfg(feature = "azure")]
        SiteSettings::Azure(settings) => Arc::new(AzureSite::new(azure_config(name, settings, clock))),
    };
    Arc::new(Retrying::new(inner, RetryOptions::default()))
}

fn format(format: Format) -> disk::Format {
    match format {
        Format::Raw => disk::Format::Raw,
        Format::Qcow2 => disk::Format::Qcow2,
    }
}

fn openstack_config(name: &SiteName, settings: &OpenStackSettings) -> OpenStackConfig {
    OpenStackConfig {
        site: name.clone(),
        cloud: settings.cloud.clone(),
        scratch: settings.scratch.clone(),
        format: format(settings.format),
        staged: settings.staged,
        restore: settings.restore.clone(),
    }
}

#[cfg(feature = "aws")]
fn aws_config(name: &SiteName, settings: &AwsSettings) -> AwsConfig {
    AwsConfig {
        site: name.clone(),
        region: settings.region.clone(),
        profile: settings.profile.clone(),
        keys: None,
        role: settings.role.clone(),
        endpoints: settings.endpoints.clone(),
        freeze: settings.freeze,
        kms_key: settings.kms_key.clone(),
        scratch: settings.scratch.clone(),
        restore: settings.restore.clone(),
    }
}

#[cfg(feature = "azure")]
fn azure_config(name: &SiteName, settings: &AzureSettings, clock: &Arc<dyn Clock>) -> AzureConfig {
    let settings = settings.clone();
    AzureConfig {
        site: name.clone(),
        subscription: settings.subscription,
        group: settings.group,
        location: settings.location,
        login: settings.login.open(clock),
        arm: settings.arm,
        storage: settings.storage,
        encryption_set: settings.encryption_set,
        scratch: settings.scratch,
        restore: settings.restore,
    }
}

fn qemu_config(name: &SiteName, settings: &QemuSettings) -> QemuConfig {
    let sockets = settings.sockets.as_ref().map(|path| match path.is_dir() {
        true => path.join("*.qmp"),
        false => path.clone(),
    });
    let format = format(settings.format);
    let accelerator = match settings.accelerator {
        Accelerator::Auto => qemu::Accelerator::Auto,
        Accelerator::Kvm => qemu::Accelerator::Kvm,
        Accelerator::Tcg => qemu::Accelerator::Tcg,
    };
    QemuConfig {
        site: name.clone(),
        sockets: sockets.unwrap_or_default().display().to_string(),
        disks: settings.disks.clone().or_else(|| settings.scratch.clone()).unwrap_or_else(std::env::temp_dir),
        scratch: settings.scratch.clone(),
        scratch_limit: None,
        jobs_only: false,
        target: TargetConfig { format, accelerator, bridge: settings.bridge.clone(), ..TargetConfig::default() },
    }
}
