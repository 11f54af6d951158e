//! In which of Glance's stores an image lies. Bytes are sent to the cloud's usual store; Glance itself copies them from
//! there to the others (`copy-image`), and what lies in a store that nobody asked for is taken out of it at the end.

use model::{Error, Kind, Result, crash};

use super::super::api::glance::Glance;
use super::super::http::Client;
use super::super::wait::Bound;

/// Glance's lists of stores that an image is being copied to, and of those where that failed.
const COMING: &str = "os_glance_importing_to_stores";
const FAILED: &str = "os_glance_failed_import";
/// Who may do these things is up to the cloud: they are an administrator's where nothing else was decided.
const RIGHTS: &str = "the cloud's policy of Glance must let the project do this: `copy_image` and \
    `delete_image_location`, see deploy/iam/openstack";

/// Refuses stores that the cloud does not have.
pub(super) async fn known(client: &Client, wanted: &[String]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let offered = Glance(client).stores().await?;
    let Some(absent) = wanted.iter().find(|store| !offered.contains(store)) else { return Ok(()) };
    let why = match offered.is_empty() {
        true => "the cloud has one store and no names for it".to_owned(),
        false => format!("the cloud has {}", offered.join(", ")),
    };
    Err(Error::new(Kind::Invalid, format!("cannot use store {absent}")).because(why))
}

/// Sees to it that an image that is whole lies in these stores and in no other. None: where it lies. Repeating it is
/// harmless.
pub(super) async fn place(client: &Client, image: &str, wanted: &[String]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let glance = Glance(client);
    let mut now = glance.show(image).await?;
    let mut bound = Bound::of_size(format!("cannot copy image {image} to its stores"), now.size.unwrap_or_default());
    let mut asked = false;
    loop {
        let held = now.stores_of("stores");
        let missing: Vec<String> = wanted.iter().filter(|store| !held.contains(store.as_str())).cloned().collect();
        // as long as Glance's task is not over it may write back what the image was before
        let busy = now.is_importing() || missing.iter().any(|store| now.stores_of(COMING).contains(store.as_str()));
        let state = format!("it is not in {}", missing.join(", "));
        if missing.is_empty() && !busy {
            break;
        } else if busy {
            bound.pause(&state).await?;
        } else if !asked {
            crash::point("openstack.copy-stores.before");
            glance.copy_to_stores(image, &missing).await.map_err(allowed)?;
            crash::point("openstack.copy-stores.after");
            asked = true;
        } else if let Some(store) = missing.iter().find(|store| now.stores_of(FAILED).contains(store.as_str())) {
            let why = format!("Glance could not copy it to store {store}");
            return Err(bound.error(Kind::Permanent, why).hint("the log of Glance tells why"));
        } else {
            bound.idle(true, &state).await?;
        }
        now = bound.look(|| glance.show(image)).await?.ok_or_else(|| bound.error(Kind::NotFound, "it is gone"))?;
    }
    for store in now.stores_of("stores").into_iter().filter(|store| !wanted.iter().any(|wanted| wanted == store)) {
        crash::point("openstack.leave-store.before");
        glance.delete_from_store(image, store).await.map_err(allowed)?;
        crash::point("openstack.leave-store.after");
    }
    Ok(())
}

fn allowed(error: Error) -> Error {
    if error.kind() == Kind::Denied { error.hint(RIGHTS) } else { error }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::json;

    use super::super::super::fake::{Fake, Reply, Request, reply};
    use super::*;

    /// An image in a Glance of three stores, and the calls that changed where it lies.
    #[derive(Default)]
    struct Shelf {
        held: Vec<&'static str>,
        coming: Vec<&'static str>,
        broken: bool,
        calls: Vec<String>,
    }

    fn answer(shelf: &mut Shelf, request: &Request) -> Reply {
        let line = request.line.trim_end_matches(" HTTP/1.1");
        let names = ["fast", "cold", "far"];
        if line.ends_with("/info/stores") {
            return reply(200, &json!({ "stores": names.map(|id| json!({ "id": id })) }).to_string());
        }
        if line.ends_with("/import") {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            shelf.coming = names.into_iter().filter(|name| body.contains(&format!("\"{name}\""))).collect();
            shelf.calls.push(format!("copy to {}", shelf.coming.join(",")));
            return reply(202, "");
        }
        if line.starts_with("DELETE") {
            let store = line.rsplit('/').nth(1).unwrap();
            shelf.held.retain(|held| *held != store);
            shelf.calls.push(format!("leave {store}"));
            return reply(204, "");
        }
        // each look finds one store more, or the copy given up
        let mut image = json!({ "id": "7", "status": "active", "stores": shelf.held.join(",") });
        if shelf.broken && !shelf.calls.is_empty() {
            image["os_glance_failed_import"] = json!(shelf.coming.join(","));
        } else if !shelf.coming.is_empty() {
            image["os_glance_importing_to_stores"] = json!(shelf.coming.join(","));
            image["os_glance_import_task"] = json!("t");
            let arrived = shelf.coming.remove(0);
            shelf.held.push(arrived);
        }
        reply(200, &image.to_string())
    }

    async fn fake(shelf: Shelf) -> (Arc<Mutex<Shelf>>, Fake) {
        let shelf = Arc::new(Mutex::new(shelf));
        let shared = shelf.clone();
        (shelf, Fake::start(move |request| answer(&mut shared.lock().unwrap(), request)).await)
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[tokio::test]
    async fn what_is_missing_is_copied_once_and_what_is_not_wanted_goes() {
        let (shelf, fake) = fake(Shelf { held: vec!["fast"], ..Shelf::default() }).await;
        for _ in 0..2 {
            place(&fake.client, "7", &names(&["far", "cold"])).await.unwrap();
        }
        let shelf = shelf.lock().unwrap();
        assert_eq!((&shelf.calls, &shelf.held), (&names(&["copy to cold,far", "leave fast"]), &vec!["cold", "far"]));
    }

    #[tokio::test]
    async fn a_copy_that_an_earlier_process_began_is_waited_for() {
        let (shelf, fake) = fake(Shelf { held: vec!["fast"], coming: vec!["cold"], ..Shelf::default() }).await;
        place(&fake.client, "7", &names(&["fast", "cold"])).await.unwrap();
        assert!(shelf.lock().unwrap().calls.is_empty());
    }

    #[tokio::test]
    async fn a_copy_that_glance_gave_up_is_told() {
        let (_shelf, fake) = fake(Shelf { held: vec!["fast"], broken: true, ..Shelf::default() }).await;
        let error = place(&fake.client, "7", &names(&["fast", "cold"])).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Permanent);
        assert!(error.chain().contains("store cold"), "{}", error.chain());
    }

    #[tokio::test]
    async fn a_store_that_is_not_there_is_refused_by_name() {
        let (_shelf, fake) = fake(Shelf::default()).await;
        known(&fake.client, &names(&["cold"])).await.unwrap();
        let error = known(&fake.client, &names(&["cold", "warm"])).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.chain().contains("warm") && error.chain().contains("fast, cold, far"), "{}", error.chain());
    }
}
