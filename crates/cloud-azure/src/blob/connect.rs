//! How a container is reached: its address, who we are there, and the SDK told to stay out of our retries.

use std::sync::Arc;

use azure_core::credentials::TokenCredential;
use azure_core::http::{ClientOptions, RetryOptions, Url};
use azure_storage_blob::{BlobContainerClient, BlobContainerClientOptions};
use model::{Clock, Error, Kind, Result};
use secrecy::SecretString;

use super::AzureBucket;
use super::shared_key::SharedKey;
use crate::identity::Login;

/// Who we are at the account.
#[derive(Debug, Clone)]
pub enum BlobAccess {
    /// Whoever holds one of the account's two keys: it opens everything in the account.
    SharedKey(SecretString),
    /// An identity with the role `Storage Blob Data Contributor` of the container.
    Login(Login),
}

/// How a container is reached.
#[derive(Debug, Clone)]
pub struct AzureBlobSettings {
    /// Name of the storage account.
    pub account: String,
    /// Name of the container; it must exist.
    pub container: String,
    /// What all keys begin with: empty, or ending with a slash.
    pub prefix: String,
    /// Address of the account: `https://ACCOUNT.blob.core.windows.net` if nothing else is said.
    pub endpoint: Option<String>,
    /// Who we are there.
    pub access: BlobAccess,
}

impl AzureBucket {
    /// Connects, without a request to the store. The clock dates what is signed with a shared key.
    pub fn connect(settings: AzureBlobSettings, clock: Arc<dyn Clock>) -> Result<Self> {
        let AzureBlobSettings { account, container, prefix, endpoint, access } = settings;
        let invalid =
            |why: String| Error::new(Kind::Invalid, format!("cannot open azblob://{container}/{prefix}")).because(why);
        let endpoint = endpoint.unwrap_or_else(|| format!("https://{account}.blob.core.windows.net"));
        let url = format!("{}/{container}", endpoint.trim_end_matches('/'));
        let url = Url::parse(&url).map_err(|error| invalid(format!("the endpoint is no address: {error}")))?;
        // one decorator retries, under one deadline; a second layer below it would multiply the attempts
        let mut client_options = ClientOptions { retry: RetryOptions::none(), ..ClientOptions::default() };
        let credential: Option<Arc<dyn TokenCredential>> = match access {
            BlobAccess::SharedKey(key) => {
                client_options.per_try_policies.push(Arc::new(SharedKey::new(&account, &key, clock)?));
                None
            }
            BlobAccess::Login(login) => Some(Arc::new(login)),
        };
        let options = BlobContainerClientOptions { client_options, ..BlobContainerClientOptions::default() };
        let client = BlobContainerClient::new(url, credential, Some(options));
        let client = client.map_err(|error| invalid(error.to_string()))?;
        Ok(Self { container: client, name: container, prefix })
    }
}
