//! Glance v2: images.

use std::collections::{BTreeMap, BTreeSet};

use model::{Kind, Result};
use reqwest::{Method, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Service;
use super::pages::{self, Listing};
use crate::openstack::http::{Call, Client};

/// The kind of JSON that changes an image.
const PATCH: &str = "application/openstack-images-v2.1-json-patch";

/// The import method for what was staged.
pub(in crate::openstack) const STAGED: &str = "glance-direct";

/// What an image is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::openstack) enum Status {
    /// Made, without bytes.
    Queued,
    /// Bytes are arriving.
    Saving,
    /// Bytes have arrived at a staging place.
    Uploading,
    /// Bytes are being moved from there.
    Importing,
    /// Whole.
    Active,
    /// Whole, and locked by an administrator.
    Deactivated,
    /// The service gave it up.
    Killed,
    /// Gone.
    Deleted,
    /// Gone, with bytes that are still to be removed.
    PendingDelete,
    /// Something newer than this program.
    #[serde(other)]
    Other,
}

/// An image as the service shows it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(in crate::openstack) struct Image {
    pub id: String,
    pub name: Option<String>,
    pub status: Status,
    /// Bytes of the file.
    pub size: Option<u64>,
    /// Bytes of the disk in it, where the service has looked.
    pub virtual_size: Option<u64>,
    pub disk_format: Option<String>,
    pub os_hash_algo: Option<String>,
    pub os_hash_value: Option<String>,
    #[serde(default)]
    pub tags: Vec<String>,
    pub owner: Option<String>,
    pub visibility: Option<String>,
    #[serde(default)]
    pub protected: bool,
    #[serde(default)]
    pub os_hidden: bool,
    /// Everything else, the properties that anybody has set among it.
    #[serde(flatten)]
    pub properties: BTreeMap<String, Value>,
}

impl Image {
    /// Whether the service has been told to fetch the bytes and is still at it.
    pub(in crate::openstack) fn is_importing(&self) -> bool {
        self.has_task() || matches!(self.status, Status::Importing | Status::Uploading)
    }

    /// Whether the service has an import to do, or is at it.
    pub(in crate::openstack) fn has_task(&self) -> bool {
        self.property("os_glance_import_task").is_some_and(|task| !task.is_empty())
    }

    /// The names in a property that lists stores: `stores`, where it lies.
    pub(in crate::openstack) fn stores_of(&self, key: &str) -> BTreeSet<&str> {
        self.property(key).unwrap_or_default().split(',').filter(|name| !name.is_empty()).collect()
    }

    /// A property that is a text.
    pub(in crate::openstack) fn property(&self, key: &str) -> Option<&str> {
        self.properties.get(key)?.as_str()
    }
}

/// A new image. The id is the client's: making it twice is refused by the service.
#[derive(Debug, Clone, Serialize)]
pub(in crate::openstack) struct NewImage {
    pub id: String,
    pub name: String,
    pub disk_format: String,
    pub container_format: &'static str,
    pub visibility: &'static str,
    pub tags: Vec<String>,
    #[serde(flatten)]
    pub properties: BTreeMap<String, Value>,
}

/// One change of an image.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(in crate::openstack) enum Change {
    /// Sets a property, whether it was there or not.
    Add { path: String, value: Value },
    /// Sets what every image has.
    Replace { path: String, value: Value },
}

impl Change {
    pub(in crate::openstack) fn add(key: &str, value: impl Into<Value>) -> Self {
        Change::Add { path: pointer(key), value: value.into() }
    }

    pub(in crate::openstack) fn replace(key: &str, value: impl Into<Value>) -> Self {
        Change::Replace { path: pointer(key), value: value.into() }
    }
}

fn pointer(key: &str) -> String {
    format!("/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// The calls.
pub(in crate::openstack) struct Glance<'a>(pub &'a Client);

impl Glance<'_> {
    fn call(&self, what: String, method: Method, path: String) -> Call<'_> {
        self.0.call(what, Service::Image, method, path)
    }

    pub(in crate::openstack) async fn create(&self, image: &NewImage) -> Result<Image> {
        let what = format!("cannot create image {}", image.id);
        self.call(what, Method::POST, "images".to_owned()).json(image)?.answer().await
    }

    pub(in crate::openstack) async fn show(&self, id: &str) -> Result<Image> {
        self.call(format!("cannot look at image {id}"), Method::GET, format!("images/{id}")).answer().await
    }

    /// All images that fit the query, hidden ones too.
    pub(in crate::openstack) async fn list(&self, query: &[(&'static str, String)]) -> Result<Vec<Image>> {
        let mut found = Vec::new();
        for hidden in ["false", "true"] {
            let mut query = query.to_vec();
            query.push(("os_hidden", hidden.to_owned()));
            let listing = Listing { service: Service::Image, path: "images", key: "images", query: &query };
            found.extend(pages::all::<Image>(self.0, listing).await?);
        }
        // a service that knows nothing of hidden images answers the same twice
        found.sort_by(|one, two| one.id.cmp(&two.id));
        found.dedup_by(|one, two| one.id == two.id);
        Ok(found)
    }

    /// Makes all changes at once, or none.
    pub(in crate::openstack) async fn change(&self, id: &str, changes: &[Change]) -> Result<Image> {
        let call = self.call(format!("cannot change image {id}"), Method::PATCH, format!("images/{id}"));
        call.json(&changes)?.content_type(PATCH).answer().await
    }

    /// Absent is success.
    pub(in crate::openstack) async fn delete(&self, id: &str) -> Result<()> {
        self.call(format!("cannot delete image {id}"), Method::DELETE, format!("images/{id}")).gone().await
    }

    /// Sends the bytes of an image that has none.
    pub(in crate::openstack) async fn upload(&self, id: &str, body: reqwest::Body, len: u64) -> Result<()> {
        let call = self.call(format!("cannot upload image {id}"), Method::PUT, format!("images/{id}/file"));
        call.stream(body, len).done().await
    }

    /// Sends the bytes of an image that has none to the service's staging place, which is not the image yet.
    pub(in crate::openstack) async fn stage(&self, id: &str, body: reqwest::Body, len: u64) -> Result<()> {
        let call = self.call(format!("cannot stage image {id}"), Method::PUT, format!("images/{id}/stage"));
        call.stream(body, len).done().await
    }

    /// Lets the service make the image of what was staged.
    pub(in crate::openstack) async fn import_staged(&self, id: &str) -> Result<()> {
        let what = format!("cannot import image {id} from where it was staged");
        let call = self.call(what, Method::POST, format!("images/{id}/import"));
        call.json(&json!({ "method": { "name": STAGED } }))?.done().await
    }

    /// The ways in which the service takes bytes other than as a body; none if it knows no imports.
    pub(in crate::openstack) async fn import_methods(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(rename = "import-methods")]
            methods: Methods,
        }
        #[derive(Deserialize)]
        struct Methods {
            value: Vec<String>,
        }
        let call = self.call("cannot ask for import methods".to_owned(), Method::GET, "info/import".to_owned());
        match call.answer::<Answer>().await {
            Ok(answer) => Ok(answer.methods.value),
            Err(error) if error.kind() == Kind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Lets the service fetch the file of an image of another region into one that has none.
    pub(in crate::openstack) async fn import_from_region(&self, id: &str, region: &str, from: &str) -> Result<()> {
        let what = format!("cannot import image {from} of region {region} into image {id}");
        let method = json!({ "name": "glance-download", "glance_region": region, "glance_image_id": from });
        let call = self.call(what, Method::POST, format!("images/{id}/import"));
        call.json(&json!({ "method": method }))?.done().await
    }

    /// The names of the service's stores; none if it has one that has no name.
    pub(in crate::openstack) async fn stores(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Answer {
            stores: Vec<Store>,
        }
        #[derive(Deserialize)]
        struct Store {
            id: String,
        }
        let call = self.call("cannot ask for stores".to_owned(), Method::GET, "info/stores".to_owned());
        match call.answer::<Answer>().await {
            Ok(answer) => Ok(answer.stores.into_iter().map(|store| store.id).collect()),
            Err(error) if error.kind() == Kind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Lets the service copy an image that is whole into further stores.
    pub(in crate::openstack) async fn copy_to_stores(&self, id: &str, stores: &[String]) -> Result<()> {
        let what = format!("cannot copy image {id} to {}", stores.join(", "));
        let call = self.call(what, Method::POST, format!("images/{id}/import"));
        let wanted = json!({ "method": { "name": "copy-image" }, "stores": stores, "all_stores_must_succeed": true });
        call.json(&wanted)?.done().await
    }

    /// Takes an image out of one of several stores. Absent is success.
    pub(in crate::openstack) async fn delete_from_store(&self, id: &str, store: &str) -> Result<()> {
        let what = format!("cannot take image {id} out of store {store}");
        self.call(what, Method::DELETE, format!("stores/{store}/{id}")).gone().await
    }

    /// Asks for bytes of an image. The answer has all of them if the service knows no ranges. How long its body may take is
    /// up to whoever reads it.
    pub(in crate::openstack) async fn download(&self, id: &str, offset: u64, len: u64) -> Result<Response> {
        let call = self.call(format!("cannot read image {id}"), Method::GET, format!("images/{id}/file"));
        call.range(offset, len).send().await
    }

    /// Shares an image with a project.
    pub(in crate::openstack) async fn add_member(&self, id: &str, project: &str) -> Result<()> {
        let what = format!("cannot share image {id} with project {project}");
        let call = self.call(what, Method::POST, format!("images/{id}/members"));
        call.json(&serde_json::json!({ "member": project }))?.done().await
    }
}
