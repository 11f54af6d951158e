//! Reading an image: ranges of its file, of which only what a reader asks for is downloaded. A download that breaks is
//! asked for again from where it broke, by the decorator above.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use disk::file::{Ranged, open_ranged};
use disk::{DiskRead, Format};
use model::{Error, Kind, Result};
use reqwest::StatusCode;

use super::api::glance::{Glance, Image, Status};
use super::digest;
use super::http::Client;

/// Opens the disk in an image. The image is active, or this fails.
pub(super) async fn open(client: &Client, image: &Image) -> Result<Box<dyn DiskRead>> {
    let operation = || format!("cannot open image {}", image.id);
    let invalid = |why: String| Error::new(Kind::Invalid, operation()).because(why);
    match image.status {
        Status::Active => {}
        Status::Queued | Status::Saving | Status::Uploading | Status::Importing => {
            return Err(Error::new(Kind::NotYetVisible, operation()).because("its bytes are still arriving"));
        }
        Status::Deactivated => return Err(invalid("an administrator has deactivated it".to_owned())),
        _ => return Err(Error::new(Kind::NotFound, operation()).because("it is being deleted")),
    }
    let format = match image.disk_format.as_deref() {
        Some("raw") => Format::Raw,
        Some("qcow2") => Format::Qcow2,
        other => {
            return Err(invalid(format!("its format is {}, and raw or qcow2 is read", other.unwrap_or("unknown"))));
        }
    };
    let len = match image.size {
        None | Some(0) => return Err(invalid("it holds no bytes: it stands for volumes".to_owned())),
        Some(len) => len,
    };
    let file = ImageFile { client: client.clone(), id: image.id.clone(), len };
    open_ranged(digest::checked(Arc::new(file), image), format).await.map_err(|error| error.within(operation()))
}

/// The file of an image.
struct ImageFile {
    client: Client,
    id: String,
    len: u64,
}

#[async_trait]
impl Ranged for ImageFile {
    fn len(&self) -> u64 {
        self.len
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let operation = format!("cannot read {len} bytes at {offset} of image {}", self.id);
        let answer = Glance(&self.client).download(&self.id, Some((offset, len as u64))).await?;
        let whole = offset == 0 && len as u64 == self.len;
        if answer.status() != StatusCode::PARTIAL_CONTENT && !whole {
            return Err(Error::new(Kind::Invalid, operation)
                .because("Glance, or a proxy before it, answers ranges with the whole image")
                .hint("let the proxy pass the header `Range`"));
        }
        super::http::read_exactly(&operation, answer, len).await
    }

    fn describe(&self) -> String {
        format!("image {}", self.id)
    }
}
