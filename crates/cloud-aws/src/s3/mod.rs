//! A vault's bucket on S3 and on stores that speak its dialect.

mod classify;
mod connect;
mod multipart;

use std::ops::Range;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use model::{Error, Kind, Result};
use vault::bucket::{Bucket, Object, Put, check_key, check_prefix, check_range};

use classify::classify;
pub use connect::{S3Credentials, S3Settings};

/// Bodies above this many bytes go up in parts, several at a time: one connection does not fill a long fat line.
const MULTIPART_ABOVE: usize = 16 << 20;

/// A bucket, or a prefix in one, on S3.
#[derive(Debug, Clone)]
pub struct S3Bucket {
    client: Client,
    bucket: String,
    /// Empty, or ending with a slash.
    prefix: String,
}

impl S3Bucket {
    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn operation(&self, verb: &str, key: &str) -> String {
        format!("cannot {verb} {key} in {}", self.describe())
    }

    async fn put_whole(&self, key: &str, body: Bytes, put: Put) -> Result<()> {
        let length = i64::try_from(body.len()).unwrap_or(i64::MAX);
        self.client
            .put_object()
            .bucket(&self.bucket)
            .key(self.name(key))
            .content_length(length)
            .set_if_none_match(only_if_absent(put))
            .body(ByteStream::from(body))
            .send()
            .await
            .map_err(|error| classify(self.operation("put", key), error))?;
        Ok(())
    }

    async fn size(&self, key: &str) -> Result<u64> {
        let head = self.client.head_object().bucket(&self.bucket).key(self.name(key)).send().await;
        let head = head.map_err(|error| classify(self.operation("get", key), error))?;
        let length = head.content_length().and_then(|length| u64::try_from(length).ok());
        length.ok_or_else(|| self.odd("get", key, "the store did not tell the object's length"))
    }

    /// An answer that breaks the protocol: most likely it was cut or mixed up on the way.
    fn odd(&self, verb: &str, key: &str, why: impl Into<String>) -> Error {
        Error::new(Kind::Transient, self.operation(verb, key)).because(why.into())
    }
}

/// The header that makes a put exclusive; the store decides, in one step.
fn only_if_absent(put: Put) -> Option<String> {
    (put == Put::CreateOnly).then(|| "*".to_owned())
}

/// The size of the whole object, from `bytes 0-9/1234`.
fn total_of(content_range: &str) -> Option<u64> {
    content_range.rsplit_once('/')?.1.trim().parse().ok()
}

#[async_trait]
impl Bucket for S3Bucket {
    async fn put(&self, key: &str, body: Bytes, put: Put) -> Result<()> {
        check_key(key)?;
        if body.len() > MULTIPART_ABOVE {
            self.put_in_parts(key, body, put).await
        } else {
            self.put_whole(key, body, put).await
        }
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        check_key(key)?;
        if let Some(range) = range.as_ref().filter(|range| range.is_empty()) {
            // HTTP knows no empty range
            check_range(key, Some(range.clone()), self.size(key).await?)?;
            return Ok(Bytes::new());
        }
        let header = range.as_ref().map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let request = self.client.get_object().bucket(&self.bucket).key(self.name(key)).set_range(header);
        let answer = request.send().await.map_err(|error| classify(self.operation("get", key), error))?;
        let announced = answer.content_length().and_then(|length| u64::try_from(length).ok());
        let total = answer.content_range().map(total_of);
        let body = answer.body.collect().await;
        let body = body.map_err(|error| self.odd("get", key, error.to_string()))?.into_bytes();
        let length = body.len() as u64;
        if announced.is_some_and(|announced| announced != length) {
            return Err(self.odd("get", key, format!("{length} bytes came of {announced:?} announced")));
        }
        match (range, total) {
            (Some(range), Some(Some(total))) => {
                let range = check_range(key, Some(range), total)?;
                let asked = range.end - range.start;
                match length == asked {
                    true => Ok(body),
                    false => Err(self.odd("get", key, format!("{length} bytes came, {asked} were asked for"))),
                }
            }
            (Some(_), Some(None)) => Err(self.odd("get", key, "the store sent a range without the object's length")),
            // a store may answer with the whole object instead of a range
            (range, None) | (range @ None, _) => {
                let range = check_range(key, range, length)?;
                Ok(body.slice(usize::try_from(range.start).unwrap_or(0)..usize::try_from(range.end).unwrap_or(0)))
            }
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        check_prefix(prefix)?;
        let mut objects = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(self.name(prefix));
            let page = request.set_continuation_token(token.clone()).send().await;
            let page = page.map_err(|error| classify(self.operation("list", prefix), error))?;
            for entry in page.contents() {
                let name = entry.key().ok_or_else(|| self.odd("list", prefix, "an entry has no key"))?;
                let key = name.strip_prefix(&self.prefix).filter(|key| key.starts_with(prefix));
                let key = key.ok_or_else(|| self.odd("list", prefix, format!("{name} was listed, too")))?;
                if check_key(key).is_err() {
                    // somebody else's, such as the folder marks that consoles make
                    continue;
                }
                let size = entry.size().and_then(|size| u64::try_from(size).ok());
                let size = size.ok_or_else(|| self.odd("list", prefix, format!("{name} has no size")))?;
                let modified = entry
                    .last_modified()
                    .and_then(|at| jiff::Timestamp::new(at.secs(), i32::try_from(at.subsec_nanos()).unwrap_or(0)).ok());
                // an object without a date counts as new: it is never old enough to be collected
                let modified = modified.unwrap_or(jiff::Timestamp::MAX);
                objects.push(Object { key: key.to_owned(), size, modified });
            }
            match (page.is_truncated().unwrap_or(false), page.next_continuation_token()) {
                (false, _) => break,
                (true, Some(next)) if token.as_deref() != Some(next) => token = Some(next.to_owned()),
                (true, _) => return Err(self.odd("list", prefix, "the store did not say where its list goes on")),
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
        match self.client.delete_object().bucket(&self.bucket).key(self.name(key)).send().await {
            Ok(_) => Ok(()),
            Err(error) => match classify(self.operation("delete", key), error) {
                error if error.kind() == Kind::NotFound => Ok(()),
                error => Err(error),
            },
        }
    }

    fn describe(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix.trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read_from_content_ranges() {
        assert_eq!(total_of("bytes 0-9/1234"), Some(1234));
        assert_eq!(total_of("bytes 0-9/*"), None);
        assert_eq!(total_of("nonsense"), None);
    }
}
