//! Reading the disk in an image. A download that breaks is asked for again from where it broke, by the decorator above.

use std::sync::Arc;

use disk::file::open_ranged;
use disk::{DiskRead, Format};
use model::{Error, Kind, Result};

use super::api::glance::{Image, Status};
use super::digest;
use super::download::Download;
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
    let file = Arc::new(Download::new(client, &image.id, len));
    open_ranged(digest::checked(file, image), format).await.map_err(|error| error.within(operation()))
}
