//! A qcow2 image, which is either streamed or put together in the scratch folder first.
//!
//! The file begins with where its tables lie, and they lie behind the data. So it can be streamed if a bound of the data is
//! known before the first of it comes: if the reader knows the holes of its disk. A reader of a flat file does not, and what
//! it calls data may be zeroes for the most part; then it is cheaper to lay the file out, and to send what is left of it.
//! Of 2 GiB the detour over the disk got 149 MiB/s to a Glance of files, where a streamed raw image gets 243.

use async_trait::async_trait;
use bytes::Bytes;
use disk::file::{Qcow2Plan, Qcow2Stream};
use disk::{DiskWrite, Written};
use model::{ExtentList, Result, Token};

use super::file::{FileThenUpload, Scratch};
use super::stream::StreamWriter;
use super::upload::Upload;

/// A qcow2 disk that is being written.
pub(super) struct Qcow2Writer {
    upload: Upload,
    scratch: Scratch,
    token: Token,
    size: u64,
    /// What was said of the disk, if anything was.
    plan: Option<Qcow2Plan>,
    /// What takes the disk, from the first of it on.
    inner: Option<Box<dyn DiskWrite>>,
}

impl Qcow2Writer {
    pub(super) fn new(upload: Upload, scratch: Scratch, size: u64, token: &Token) -> Self {
        Self { upload, scratch, token: token.clone(), size, plan: None, inner: None }
    }

    async fn take(&mut self) -> Result<Box<dyn DiskWrite>> {
        let (upload, scratch) = (self.upload.clone(), self.scratch.clone());
        match (self.inner.take(), &self.plan) {
            (Some(writer), _) => Ok(writer),
            (None, Some(plan)) => {
                // of an earlier attempt, that was told nothing
                scratch.remove(&upload.mark).await?;
                Ok(Box::new(StreamWriter::new(upload, self.size, Some(Qcow2Stream::new(plan)))))
            }
            (None, None) => Ok(Box::new(FileThenUpload::new(upload, scratch, self.size, &self.token).await?)),
        }
    }
}

#[async_trait]
impl DiskWrite for Qcow2Writer {
    fn size(&self) -> u64 {
        self.size
    }

    fn wants_extents(&self) -> bool {
        true
    }

    async fn announce(&mut self, extents: &ExtentList) -> Result<()> {
        self.plan.get_or_insert_with(|| Qcow2Plan::new(self.size)).add(extents);
        Ok(())
    }

    async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        let mut writer = self.take().await?;
        let taken = writer.write(offset, data).await;
        self.inner = Some(writer);
        taken
    }

    async fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        let mut writer = self.take().await?;
        let taken = writer.zero(offset, len).await;
        self.inner = Some(writer);
        taken
    }

    fn may_have_leaves(&self) -> bool {
        false
    }

    async fn finish(mut self: Box<Self>) -> Result<Written> {
        self.take().await?.finish().await
    }
}
