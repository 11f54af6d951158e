//! Following pages to the end. A list that is cut short would make a sweep miss what it must delete, so a page that
//! does not lead on is an error.

use model::{Error, Kind, Result};
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Service;
use crate::openstack::http::Client;

/// Things on one page.
const PAGE: u32 = 200;

/// What is listed.
pub(super) struct Listing<'a> {
    pub service: Service,
    pub path: &'a str,
    /// The key of the list in the answer.
    pub key: &'a str,
    pub query: &'a [(&'static str, String)],
}

/// All of a list, page by page, by the id of the last thing seen.
pub(super) async fn all<T: DeserializeOwned>(client: &Client, listing: Listing<'_>) -> Result<Vec<T>> {
    let Listing { service, path, key, query } = listing;
    let operation = format!("cannot list {key} of {service}");
    let odd = |why: String| Error::new(Kind::Permanent, operation.clone()).because(why);
    let (mut found, mut marker) = (Vec::new(), None::<String>);
    loop {
        let mut call = client.call(operation.clone(), service, Method::GET, path).query("limit", PAGE);
        for (name, value) in query {
            call = call.query(name, value);
        }
        if let Some(marker) = &marker {
            call = call.query("marker", marker);
        }
        let mut page: Value = call.answer().await?;
        let more = page.get("next").is_some_and(|next| !next.is_null()) || leads_on(&page, key);
        let Some(Value::Array(items)) = page.get_mut(key).map(Value::take) else {
            return Err(odd(format!("the answer has no `{key}`")));
        };
        let last = items.last().and_then(|item| item.get("id")?.as_str()).map(str::to_owned);
        for item in items {
            found.push(serde_json::from_value(item).map_err(|error| odd(format!("it is not understood: {error}")))?);
        }
        if !more {
            return Ok(found);
        }
        if last.is_none() || last == marker {
            return Err(odd("a page leads to itself".to_owned()));
        }
        marker = last;
    }
}

/// Nova, Neutron and Cinder have links beside the list, one of them to the next page.
fn leads_on(page: &Value, key: &str) -> bool {
    let links = page.get(format!("{key}_links")).and_then(Value::as_array);
    links.is_some_and(|links| links.iter().any(|link| link.get("rel").and_then(Value::as_str) == Some("next")))
}
