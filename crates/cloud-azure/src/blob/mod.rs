//! A vault's bucket in a container of an Azure storage account.

mod classify;
mod connect;
mod shared_key;

use std::num::NonZero;
use std::ops::Range;

use async_trait::async_trait;
use azure_storage_blob::models::{
    BlobClientDeleteOptions, BlobClientDownloadOptions, BlobClientUploadOptions, BlobContainerClientListBlobsOptions,
    DeleteSnapshotsOptionType,
};
use azure_storage_blob::{BlobClient, BlobContainerClient};
use bytes::Bytes;
use futures::TryStreamExt;
use model::{Error, Kind, Result};
use vault::bucket::{Bucket, Object, Put, check_key, check_prefix, check_range};

use classify::classify;
pub use connect::{AzureBlobSettings, BlobAccess};

/// Bodies above this many bytes go up as blocks of this size, several at a time: one connection does not fill a long fat
/// line. Block ids are random, so that writers of the same key cannot mix their blocks.
const BLOCK: u32 = 16 << 20;
/// Requests of one put or get in flight.
const PARALLEL: usize = 4;

/// A container, or a prefix in one.
pub struct AzureBucket {
    container: BlobContainerClient,
    name: String,
    /// Empty, or ending with a slash.
    prefix: String,
}

impl AzureBucket {
    fn blob(&self, key: &str) -> BlobClient {
        self.container.blob_client(&format!("{}{key}", self.prefix))
    }

    fn operation(&self, verb: &str, key: &str) -> String {
        format!("cannot {verb} {key} in {}", self.describe())
    }

    async fn size(&self, key: &str) -> Result<u64> {
        let properties = self.blob(key).get_properties(None).await;
        let properties = properties.map_err(|error| classify(self.operation("get", key), error))?;
        let length = properties.headers().get_optional_str(&"content-length".into()).and_then(|it| it.parse().ok());
        length.ok_or_else(|| self.odd("get", key, "the store did not tell the object's length"))
    }

    /// An answer that breaks the protocol: most likely it was cut or mixed up on the way.
    fn odd(&self, verb: &str, key: &str, why: impl Into<String>) -> Error {
        Error::new(Kind::Transient, self.operation(verb, key)).because(why.into())
    }
}

/// The size of the whole object, from `bytes 0-9/1234`.
fn total_of(content_range: &str) -> Option<u64> {
    content_range.rsplit_once('/')?.1.trim().parse().ok()
}

#[async_trait]
impl Bucket for AzureBucket {
    async fn put(&self, key: &str, body: Bytes, put: Put) -> Result<()> {
        check_key(key)?;
        let mut options = BlobClientUploadOptions {
            parallel: NonZero::new(PARALLEL),
            partition_size: NonZero::new(BLOCK.into()),
            ..BlobClientUploadOptions::default()
        };
        if put == Put::CreateOnly {
            options = options.if_not_exists();
        }
        let sent = self.blob(key).upload(body.into(), Some(options)).await;
        sent.map(|_| ()).map_err(|error| classify(self.operation("put", key), error))
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        check_key(key)?;
        if let Some(range) = range.as_ref().filter(|range| range.is_empty()) {
            // HTTP knows no empty range
            check_range(key, Some(range.clone()), self.size(key).await?)?;
            return Ok(Bytes::new());
        }
        let options = BlobClientDownloadOptions {
            parallel: NonZero::new(PARALLEL),
            partition_size: NonZero::new(BLOCK as usize),
            range: range.clone().map(Into::into),
            ..BlobClientDownloadOptions::default()
        };
        let answer = self.blob(key).download(Some(options)).await;
        let answer = answer.map_err(|error| classify(self.operation("get", key), error))?;
        let total = answer.headers.get_optional_str(&"content-range".into()).and_then(total_of);
        let total = total.or(answer.properties.content_length);
        let body = answer.body.collect().await;
        let body = body.map_err(|error| classify(self.operation("get", key), error))?;
        let total = total.ok_or_else(|| self.odd("get", key, "the store did not tell the object's length"))?;
        let asked = check_range(key, range, total)?;
        match body.len() as u64 == asked.end - asked.start {
            true => Ok(body),
            false => {
                let why = format!("{} bytes came, {} were asked for", body.len(), asked.end - asked.start);
                Err(self.odd("get", key, why))
            }
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        check_prefix(prefix)?;
        let fail = |error| classify(self.operation("list", prefix), error);
        let wanted = format!("{}{prefix}", self.prefix);
        let options = BlobContainerClientListBlobsOptions {
            prefix: (!wanted.is_empty()).then_some(wanted),
            ..BlobContainerClientListBlobsOptions::default()
        };
        let mut pages = self.container.list_blobs(Some(options)).map_err(fail)?.into_pages();
        let mut objects = Vec::new();
        while let Some(page) = pages.try_next().await.map_err(fail)? {
            for item in page.into_model().map_err(fail)?.blob_items {
                let name = item.name.ok_or_else(|| self.odd("list", prefix, "an entry has no name"))?;
                let key = name.strip_prefix(&self.prefix).filter(|key| key.starts_with(prefix));
                let key = key.ok_or_else(|| self.odd("list", prefix, format!("{name} was listed, too")))?;
                if check_key(key).is_err() {
                    // somebody else's, such as the folder marks that consoles make
                    continue;
                }
                let properties = item.properties.unwrap_or_default();
                let size = properties.content_length;
                let size = size.ok_or_else(|| self.odd("list", prefix, format!("{name} has no size")))?;
                let modified =
                    properties.last_modified.and_then(|at| jiff::Timestamp::from_second(at.unix_timestamp()).ok());
                // an object without a date counts as new: it is never old enough to be collected
                let modified = modified.unwrap_or(jiff::Timestamp::MAX);
                objects.push(Object { key: key.to_owned(), size, modified });
            }
        }
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        if objects.windows(2).any(|pair| pair[0].key == pair[1].key) {
            return Err(self.odd("list", prefix, "an object is listed twice"));
        }
        Ok(objects)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        let options = BlobClientDeleteOptions {
            // somebody's snapshots of it would keep it
            delete_snapshots: Some(DeleteSnapshotsOptionType::Include),
            ..BlobClientDeleteOptions::default()
        };
        match self.blob(key).delete(Some(options)).await {
            Ok(_) => Ok(()),
            Err(error) => match classify(self.operation("delete", key), error) {
                error if error.kind() == Kind::NotFound => Ok(()),
                error => Err(error),
            },
        }
    }

    fn describe(&self) -> String {
        format!("azblob://{}/{}", self.name, self.prefix.trim_end_matches('/'))
    }
}
