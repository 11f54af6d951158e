//! Opens vaults: the bucket with its retries, and the keys from where they lie.

use std::sync::Arc;

use model::{Clock, Error, Kind, Patience, Result, VaultName};
use vault::bucket::{Bucket, DirBucket, RetryBucket};
use vault::{Identity, Options, Recipient, Vault};

use crate::config::{BucketUrl, IdentityRef, RecipientRef, S3Settings, VaultSettings};

/// Opens the bucket of a vault, with retries. With `create`, the folder of a `dir:` vault is made.
#[cfg_attr(not(feature = "azure"), expect(unused_variables, reason = "only logins at Azure look at the clock"))]
pub async fn open_bucket(settings: &VaultSettings, clock: &Arc<dyn Clock>, create: bool) -> Result<Arc<dyn Bucket>> {
    let inner: Arc<dyn Bucket> = match &settings.url {
        BucketUrl::Dir(path) if create => Arc::new(DirBucket::create(path)?),
        BucketUrl::Dir(path) => Arc::new(DirBucket::open(path)?),
        BucketUrl::S3 { bucket, prefix, settings } => s3_bucket(settings, bucket, prefix).await?,
        #[cfg(feature = "azure")]
        BucketUrl::Azblob { container, prefix, settings } => azure_bucket(settings, container, prefix, clock)?,
    };
    Ok(Arc::new(RetryBucket::new(inner, Patience::default())))
}

#[cfg(feature = "aws")]
async fn s3_bucket(settings: &S3Settings, bucket: &str, prefix: &str) -> Result<Arc<dyn Bucket>> {
    use cloud_aws::s3::{S3Bucket, S3Credentials};
    use secrecy::ExposeSecret;

    let credentials = match (&settings.keys, &settings.profile) {
        (Some((access, secret, token)), _) => S3Credentials::Static {
            access_key: access.read("the access key of the bucket")?.expose_secret().to_owned(),
            secret_key: secret.read("the secret key of the bucket")?,
            session_token: token.as_ref().map(|token| token.read("the session token of the bucket")).transpose()?,
        },
        (None, Some(profile)) => S3Credentials::Profile(profile.clone()),
        (None, None) => S3Credentials::Chain,
    };
    let settings = cloud_aws::s3::S3Settings {
        bucket: bucket.to_owned(),
        prefix: with_slash(prefix),
        region: settings.region.clone(),
        endpoint: settings.endpoint.clone(),
        path_style: settings.path_style,
        credentials,
    };
    Ok(Arc::new(S3Bucket::open(settings).await?))
}

#[cfg(not(feature = "aws"))]
async fn s3_bucket(_settings: &S3Settings, bucket: &str, _prefix: &str) -> Result<Arc<dyn Bucket>> {
    Err(Error::new(Kind::Invalid, format!("cannot open bucket s3://{bucket}"))
        .because("this program was built without the feature `aws`")
        .hint("build it with `cargo build --release --features aws`, or use a `dir:` vault"))
}

#[cfg(feature = "azure")]
fn azure_bucket(
    settings: &crate::config::AzblobSettings,
    container: &str,
    prefix: &str,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn Bucket>> {
    use cloud_azure::blob::{AzureBlobSettings, AzureBucket, BlobAccess};

    use crate::config::AzblobAccess;

    let access = match &settings.access {
        AzblobAccess::Key(key) => BlobAccess::SharedKey(key.read("the key of the storage account")?),
        AzblobAccess::Login(login) => BlobAccess::Login(login.open(clock)),
    };
    let settings = AzureBlobSettings {
        account: settings.account.clone(),
        container: container.to_owned(),
        prefix: with_slash(prefix),
        endpoint: settings.endpoint.clone(),
        access,
    };
    Ok(Arc::new(AzureBucket::connect(settings, Arc::clone(clock))?))
}

#[cfg(any(feature = "aws", feature = "azure"))]
fn with_slash(prefix: &str) -> String {
    if prefix.is_empty() { String::new() } else { format!("{prefix}/") }
}

fn options(settings: &VaultSettings, clock: &Arc<dyn Clock>) -> Options {
    Options { level: settings.compression, threads: settings.threads, ..Options::new(Arc::clone(clock)) }
}

/// Opens a vault.
pub async fn open_vault(name: &VaultName, settings: &VaultSettings, clock: &Arc<dyn Clock>) -> Result<Vault> {
    let mut identities = Vec::new();
    for reference in &settings.identities {
        identities.push(identity(reference, name)?);
    }
    let missing = |error: Error| match error.kind() {
        Kind::NotFound => error.within(format!("cannot open vault {name}")).hint(creation_hint(name)),
        _ => error.within(format!("cannot open vault {name}")),
    };
    let bucket = open_bucket(settings, clock, false).await.map_err(missing)?;
    Vault::open(bucket, &identities, options(settings, clock)).await.map_err(missing)
}

/// Creates a vault as the configuration describes it.
pub async fn create_vault(name: &VaultName, settings: &VaultSettings, clock: &Arc<dyn Clock>) -> Result<Vault> {
    let mut recipients = Vec::new();
    for reference in &settings.recipients {
        recipients.push(recipient(reference, name)?);
    }
    let within = |error: Error| error.within(format!("cannot create vault {name}"));
    let bucket = open_bucket(settings, clock, true).await.map_err(within)?;
    Vault::create(bucket, &recipients, options(settings, clock)).await.map_err(within)
}

fn creation_hint(name: &VaultName) -> String {
    format!("create it with `replicate init --vault {name}`")
}

/// Fetches what opens the vault.
fn identity(reference: &IdentityRef, vault: &VaultName) -> Result<Identity> {
    Ok(match reference {
        IdentityRef::Passphrase(secret) => {
            Identity::Passphrase(secret.read(&format!("the passphrase of vault {vault}"))?)
        }
        IdentityRef::Age(secret) => Identity::AgeSecret(secret.read(&format!("the age key of vault {vault}"))?),
    })
}

/// Fetches who shall be able to open the vault.
pub fn recipient(reference: &RecipientRef, vault: &VaultName) -> Result<Recipient> {
    Ok(match reference {
        RecipientRef::Passphrase(secret) => {
            Recipient::Passphrase(secret.read(&format!("the passphrase of vault {vault}"))?)
        }
        RecipientRef::Age(public) => Recipient::AgePublic(public.clone()),
    })
}
