//! Large bodies in parts, and the uploads that nobody ended.
//!
//! The object appears when the upload is completed, in one step and only if absent; what a killed writer uploaded until
//! then is invisible, costs money, and is aborted by [`S3Bucket::abort_abandoned_uploads`].

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use model::{Kind, Result, crash};
use vault::bucket::Put;

use super::{S3Bucket, classify, only_if_absent};

/// Bytes of a part: S3 takes 5 MiB at least (the last may be smaller).
const PART: usize = 8 << 20;
/// Parts on their way at a time.
const PARALLEL: usize = 4;
/// Rounds of aborting an upload: a part that was under way may arrive after the first.
const ABORTS: usize = 5;
/// Name of the upload that is begun only to read the store's clock.
const CLOCK_PROBE: &str = "clock-probe";

/// An upload that was begun and not ended.
#[derive(Debug)]
struct Upload {
    /// Full name of the object, prefix included.
    name: String,
    id: String,
    /// Seconds since 1970, by the store's clock.
    begun: i64,
}

impl S3Bucket {
    pub(super) async fn put_in_parts(&self, key: &str, body: Bytes, put: Put) -> Result<()> {
        let name = self.name(key);
        let begun = self.client.create_multipart_upload().bucket(&self.bucket).key(&name).send().await;
        let begun = begun.map_err(|error| classify(self.operation("put", key), error))?;
        let id = begun.upload_id().ok_or_else(|| self.odd("put", key, "the store gave the upload no id"))?.to_owned();
        crash::point("bucket.s3.complete.before");
        let outcome = match self.upload_parts(key, &name, &id, body).await {
            Ok(parts) => self.complete(key, &name, &id, parts, put).await,
            Err(error) => Err(error),
        };
        crash::point("bucket.s3.complete.after");
        if outcome.is_err() {
            // after a lost answer the upload may be complete: then this aborts nothing, and the caller compares
            let _ = self.abort(&name, &id).await;
        }
        outcome
    }

    async fn upload_parts(&self, key: &str, name: &str, id: &str, body: Bytes) -> Result<Vec<CompletedPart>> {
        let count = body.len().div_ceil(PART);
        let parts = stream::iter(0..count).map(|index| {
            let part = body.slice(index * PART..body.len().min((index + 1) * PART));
            let number = i32::try_from(index + 1).unwrap_or(i32::MAX);
            async move {
                let length = i64::try_from(part.len()).unwrap_or(i64::MAX);
                let request = self.client.upload_part().bucket(&self.bucket).key(name).upload_id(id);
                let request = request.part_number(number).content_length(length).body(ByteStream::from(part));
                let sent = request.send().await.map_err(|error| classify(self.operation("put", key), error))?;
                let tag = sent.e_tag().ok_or_else(|| self.odd("put", key, "the store gave a part no tag"))?;
                // the checksum that was sent with the part must be repeated when the upload is completed
                let done = CompletedPart::builder().part_number(number).e_tag(tag);
                Ok(done.set_checksum_crc32(sent.checksum_crc32().map(str::to_owned)).build())
            }
        });
        parts.buffered(PARALLEL).try_collect().await
    }

    async fn complete(&self, key: &str, name: &str, id: &str, parts: Vec<CompletedPart>, put: Put) -> Result<()> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.client.complete_multipart_upload().bucket(&self.bucket).key(name).upload_id(id);
        let request = request.multipart_upload(parts).set_if_none_match(only_if_absent(put));
        request.send().await.map_err(|error| classify(self.operation("put", key), error))?;
        Ok(())
    }

    /// Aborts an upload until the store knows no part of it.
    async fn abort(&self, name: &str, id: &str) -> Result<()> {
        for _ in 0..ABORTS {
            let aborted =
                self.client.abort_multipart_upload().bucket(&self.bucket).key(name).upload_id(id).send().await;
            match aborted.map_err(|error| classify(self.operation("abort the upload of", name), error)) {
                // an upload that is unknown is what we want
                Err(error) if !is_unknown(&error) => return Err(error),
                _ => {}
            }
            let left = self.client.list_parts().bucket(&self.bucket).key(name).upload_id(id).send().await;
            match left.map_err(|error| classify(self.operation("list the parts of", name), error)) {
                Ok(left) if left.parts().is_empty() => return Ok(()),
                Err(error) if is_unknown(&error) => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        Err(self.odd("abort the upload of", name, "parts of it are still there"))
    }

    /// Aborts the uploads under our prefix that began more than `age` ago by the store's clock, and tells how many.
    ///
    /// A writer that is alive after all finds its upload unknown, which is a transient error, and puts again.
    pub async fn abort_abandoned_uploads(&self, age: Duration) -> Result<usize> {
        let uploads = self.uploads().await?;
        if uploads.is_empty() {
            return Ok(0);
        }
        let now = self.store_now().await?;
        let bound = now.saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        let mut aborted = 0;
        for upload in uploads.iter().filter(|upload| upload.begun <= bound) {
            self.abort(&upload.name, &upload.id).await?;
            aborted += 1;
        }
        Ok(aborted)
    }

    /// The store's clock, read from the beginning of an upload that is aborted at once.
    async fn store_now(&self) -> Result<i64> {
        let name = self.name(CLOCK_PROBE);
        let begun = self.client.create_multipart_upload().bucket(&self.bucket).key(&name).send().await;
        let begun = begun.map_err(|error| classify(self.operation("read the clock by", CLOCK_PROBE), error))?;
        let id = begun.upload_id().unwrap_or_default();
        let found = self.uploads().await;
        self.abort(&name, id).await?;
        let found = found?.into_iter().find(|upload| upload.id == id).map(|upload| upload.begun);
        found.ok_or_else(|| self.odd("read the clock by", CLOCK_PROBE, "the upload is not listed"))
    }

    async fn uploads(&self) -> Result<Vec<Upload>> {
        let mut uploads = Vec::new();
        let mut at: (Option<String>, Option<String>) = (None, None);
        loop {
            let request = self.client.list_multipart_uploads().bucket(&self.bucket).prefix(&self.prefix);
            let request = request.set_key_marker(at.0.clone()).set_upload_id_marker(at.1.clone());
            let page = request.send().await;
            let page = page.map_err(|error| classify(self.operation("list uploads", ""), error))?;
            for upload in page.uploads() {
                let (Some(name), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
                // an upload without a date counts as new
                let begun = upload.initiated().map_or(i64::MAX, |at| at.secs());
                if name.starts_with(&self.prefix) {
                    uploads.push(Upload { name: name.to_owned(), id: id.to_owned(), begun });
                }
            }
            let next = (page.next_key_marker().map(str::to_owned), page.next_upload_id_marker().map(str::to_owned));
            match page.is_truncated().unwrap_or(false) {
                false => return Ok(uploads),
                true if next.0.is_some() && next != at => at = next,
                true => return Err(self.odd("list uploads", "", "the store did not say where its list goes on")),
            }
        }
    }
}

/// `NoSuchUpload`: classified as transient for puts, which begin again; here it means that nothing is left.
fn is_unknown(error: &model::Error) -> bool {
    error.kind() == Kind::NotFound || error.chain().contains("NoSuchUpload")
}
