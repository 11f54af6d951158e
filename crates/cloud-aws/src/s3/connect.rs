//! How a bucket is reached: endpoint, region, credentials, and the SDK told to stay out of our retries.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Builder, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use model::{Error, Kind, Result};
use secrecy::{ExposeSecret, SecretString};
use vault::bucket::Bucket;

use super::S3Bucket;

/// Uploads that began this long ago and never ended belong to a dead writer.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Where the keys come from.
#[derive(Debug, Clone, Default)]
pub enum S3Credentials {
    /// Environment, profile, web identity, container or instance: the SDK's chain.
    #[default]
    Chain,
    /// A named profile of the AWS configuration files.
    Profile(String),
    /// Given keys.
    Static {
        /// Access key id.
        access_key: String,
        /// Its secret.
        secret_key: SecretString,
        /// Token of temporary keys.
        session_token: Option<SecretString>,
    },
}

/// How a bucket is reached.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// Name of the bucket; it must exist.
    pub bucket: String,
    /// What all keys begin with: empty, or ending with a slash.
    pub prefix: String,
    /// Its region; without one the environment's or the profile's.
    pub region: Option<String>,
    /// URL of a store that is not AWS, or of a private endpoint.
    pub endpoint: Option<String>,
    /// Bucket in the path instead of in the host's name; most stores of one's own need it.
    pub path_style: bool,
    /// Where the keys come from.
    pub credentials: S3Credentials,
}

impl S3Bucket {
    /// Connects, and aborts what dead writers left half uploaded (a failure of that is only logged: the keys may lack
    /// the right to list uploads, and nothing depends on it but the bill).
    pub async fn open(settings: S3Settings) -> Result<Self> {
        let bucket = Self::connect(settings).await?;
        match bucket.abort_abandoned_uploads(ABANDONED_AFTER).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(bucket = bucket.describe(), count, "aborted abandoned uploads"),
            Err(error) => {
                tracing::warn!(bucket = bucket.describe(), error = error.chain(), "cannot look for abandoned uploads")
            }
        }
        Ok(bucket)
    }

    /// Connects without a request to the store.
    pub async fn connect(settings: S3Settings) -> Result<Self> {
        let S3Settings { bucket, prefix, region, endpoint, path_style, credentials } = settings;
        let operation = || format!("cannot open s3://{bucket}/{prefix}");
        if let Some(url) = &endpoint
            && !url.starts_with("https://")
            && !url.starts_with("http://")
        {
            return Err(
                Error::new(Kind::Invalid, operation()).because("the endpoint begins with neither https:// nor http://")
            );
        }
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12());
        loader = match credentials {
            S3Credentials::Chain => loader,
            S3Credentials::Profile(name) => {
                let provider = ProfileFileCredentialsProvider::builder().profile_name(&name).build();
                loader.profile_name(name).credentials_provider(provider)
            }
            S3Credentials::Static { access_key, secret_key, session_token } => {
                let token = session_token.map(|token| token.expose_secret().to_owned());
                let secret = secret_key.expose_secret().to_owned();
                loader.credentials_provider(Credentials::new(access_key, secret, token, None, "configuration"))
            }
        };
        if let Some(region) = region {
            loader = loader.region(Region::new(region));
        }
        let shared = loader.load().await;
        // one decorator retries, under one deadline; a second layer below it would multiply the attempts
        let mut builder = Builder::from(&shared)
            .retry_config(RetryConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(Duration::from_secs(10))
                    .read_timeout(Duration::from_secs(60))
                    .operation_attempt_timeout(Duration::from_secs(300))
                    .build(),
            )
            // uploads are throttled by our own pipeline at times, which is no stall
            .stalled_stream_protection(
                StalledStreamProtectionConfig::enabled()
                    .upload_enabled(false)
                    .grace_period(Duration::from_secs(60))
                    .build(),
            )
            .force_path_style(path_style);
        if let Some(url) = endpoint.or_else(|| shared.endpoint_url().map(str::to_owned)) {
            if shared.region().is_none() {
                builder = builder.region(Region::from_static("us-east-1"));
            }
            // look-alikes refuse checksum trailers; every byte of a vault is sealed anyway
            builder = builder
                .endpoint_url(url)
                .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
                .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        } else if shared.region().is_none() {
            return Err(Error::new(Kind::Invalid, operation())
                .because("no region is known")
                .hint("set `region` of the vault"));
        }
        Ok(Self { client: Client::from_conf(builder.build()), bucket, prefix })
    }
}
