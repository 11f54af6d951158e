//! How an account is reached and what servers restored there get; the clients made of it.

use std::path::PathBuf;
use std::time::Duration;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use cloud::Spec;
use model::{Error, Kind, Result, SiteName};
use secrecy::{ExposeSecret, SecretString};

use super::ssm::Ssm;

/// How a site of kind `aws` is set up.
#[derive(Debug, Clone)]
pub struct AwsConfig {
    /// Its name in the configuration.
    pub site: SiteName,
    /// Its region: `eu-west-1`.
    pub region: String,
    /// A profile of the AWS files. Default: the SDK's chain of environment, container and instance.
    pub profile: Option<String>,
    /// Keys that stand above the profile and the chain: id and secret.
    pub keys: Option<(String, SecretString)>,
    /// ARN of a role that is assumed with them.
    pub role: Option<String>,
    /// Addresses that stand above AWS's own.
    pub endpoints: Endpoints,
    /// Key that snapshots written here are encrypted with: its ARN. Default: as the account encrypts by itself.
    pub kms_key: Option<String>,
    /// Where hashes of written disks are kept, so that an update need not read the whole disk it is based on.
    pub scratch: PathBuf,
    /// What restored servers get.
    pub restore: Restore,
    /// How file systems of guests are frozen for a capture. Default: they are not.
    pub freeze: Option<Freeze>,
}

/// Who freezes a guest: EC2 itself does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    /// Systems Manager's agent in the guest.
    Ssm,
}

/// Addresses of the services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// EC2.
    pub ec2: Option<String>,
    /// EBS direct.
    pub ebs: Option<String>,
    /// STS.
    pub sts: Option<String>,
    /// Systems Manager.
    pub ssm: Option<String>,
}

impl Endpoints {
    /// Each with its word in the configuration.
    pub fn named(&self) -> [(&'static str, Option<&str>); 4] {
        [
            ("ec2", self.ec2.as_deref()),
            ("ebs", self.ebs.as_deref()),
            ("sts", self.sts.as_deref()),
            ("ssm", self.ssm.as_deref()),
        ]
    }
}

/// How servers are launched at a site, and what single ones of them get instead.
pub type Restore = cloud::Restore<LaunchSpec>;

/// What a server is launched with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaunchSpec {
    /// Instance type. Default: the smallest that has the memory and processors.
    pub instance_type: Option<String>,
    /// Id of the subnet. Default: the default VPC's.
    pub subnet: Option<String>,
    /// Ids of security groups. Default: the VPC's default group.
    pub security_groups: Option<Vec<String>>,
    /// Name of a key pair.
    pub key: Option<String>,
    /// File that is handed to the guest as user data.
    pub user_data: Option<PathBuf>,
}

impl Spec for LaunchSpec {
    fn or(self, usual: Self) -> Self {
        Self {
            instance_type: self.instance_type.or(usual.instance_type),
            subnet: self.subnet.or(usual.subnet),
            security_groups: self.security_groups.or(usual.security_groups),
            key: self.key.or(usual.key),
            user_data: self.user_data.or(usual.user_data),
        }
    }
}

/// The services' clients, over one pool of connections.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    pub(super) ec2: aws_sdk_ec2::Client,
    pub(super) ebs: aws_sdk_ebs::Client,
    pub(super) sts: aws_sdk_sts::Client,
    /// None: nobody is frozen.
    pub(super) ssm: Option<Ssm>,
}

impl Clients {
    /// Makes the clients; nothing is sent before the first call but what finding the keys needs.
    pub(super) async fn connect(config: &AwsConfig) -> Result<Self> {
        let operation = || format!("cannot reach site {}", config.site);
        let mut urls = config.endpoints.named().into_iter().filter_map(|(_, url)| url);
        if let Some(url) = urls.find(|url| !url.starts_with("https://") && !url.starts_with("http://")) {
            return Err(Error::new(Kind::Invalid, operation())
                .because(format!("endpoint `{url}` begins with neither https:// nor http://")));
        }
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .region(Region::new(config.region.clone()))
            // one decorator retries, under one deadline; a second layer below it would multiply the attempts
            .retry_config(RetryConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(Duration::from_secs(10))
                    .read_timeout(Duration::from_secs(60))
                    .operation_attempt_timeout(Duration::from_secs(120))
                    .build(),
            )
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(profile) = &config.profile {
            let provider = ProfileFileCredentialsProvider::builder().profile_name(profile).build();
            loader = loader.profile_name(profile).credentials_provider(provider);
        }
        if let Some((id, secret)) = &config.keys {
            loader =
                loader.credentials_provider(Credentials::new(id, secret.expose_secret(), None, None, "configuration"));
        }
        let mut shared = loader.load().await;
        if let Some(role) = &config.role {
            let mut base = shared.to_builder();
            if let Some(url) = &config.endpoints.sts {
                base = base.endpoint_url(url);
            }
            let provider = AssumeRoleProvider::builder(role)
                .session_name("replicate")
                .region(Region::new(config.region.clone()))
                .configure(&base.build())
                .build()
                .await;
            shared = shared.to_builder().credentials_provider(SharedCredentialsProvider::new(provider)).build();
        }
        let mut ec2 = aws_sdk_ec2::config::Builder::from(&shared);
        if let Some(url) = &config.endpoints.ec2 {
            ec2 = ec2.endpoint_url(url);
        }
        let mut ebs = aws_sdk_ebs::config::Builder::from(&shared);
        if let Some(url) = &config.endpoints.ebs {
            ebs = ebs.endpoint_url(url);
        }
        let mut sts = aws_sdk_sts::config::Builder::from(&shared);
        if let Some(url) = &config.endpoints.sts {
            sts = sts.endpoint_url(url);
        }
        let ssm = config.freeze.map(|Freeze::Ssm| Ssm::new(&shared, &config.region, config.endpoints.ssm.as_deref()));
        Ok(Self {
            ec2: aws_sdk_ec2::Client::from_conf(ec2.build()),
            ebs: aws_sdk_ebs::Client::from_conf(ebs.build()),
            sts: aws_sdk_sts::Client::from_conf(sts.build()),
            ssm,
        })
    }
}
