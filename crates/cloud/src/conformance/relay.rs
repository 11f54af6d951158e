//! A copy that the provider makes between two of its sites: equal, once, scratch until it is committed, and gone
//! without a trace when it is cancelled.

use std::time::Duration;

use model::{ImageId, ImageOptions, Kind, Role, tag};

use super::write::{self, Made};
use super::{Bench, Check, Stop, ensure, skip};
use crate::{CopyRequest, CopyState, ImageCopy, Peer, Relay};

/// The two ends: what is made at `from` is copied to `to`.
pub(super) struct Pair<'a> {
    pub(super) from: &'a Bench<'a>,
    pub(super) to: &'a Bench<'a>,
}

pub(super) async fn check(pair: &Pair<'_>) {
    let to = pair.to;
    to.check("relay.route", "sites of one domain reach each other, and strangers are refused", route(pair)).await;
    to.check("relay.equal", "a copy has the bytes and the point of its source", equal(pair)).await;
    to.check("relay.scratch", "a copy is scratch with all its tags until it is committed", scratch(pair)).await;
    to.check("relay.same-token", "the same token finds the same copy, also in a later process", once(pair)).await;
    to.check("relay.cancelled", "a copy that is deleted half-way leaves nothing", cancelled(pair)).await;
    to.check("relay.absent", "the copy of an absent image is told as such", absent(pair)).await;
}

impl Pair<'_> {
    fn relay(&self) -> Check<&dyn Relay> {
        self.to.cloud.relay().ok_or_else(|| Stop::Skipped("the site copies no images".to_owned()))
    }

    /// Where the source stands, by its own word.
    async fn peer(&self) -> Check<Peer> {
        match self.from.cloud.relay() {
            Some(relay) => Ok(relay.peer().await?),
            None => skip("the source has no place among sites that copy"),
        }
    }

    /// An image at the source, and the request to copy it.
    async fn made(&self, step: &str, seed: u64) -> Check<(Made, CopyRequest)> {
        let made = write::image(self.from, step, seed, Role::Replica).await?;
        let request = CopyRequest {
            from: self.peer().await?,
            image: made.id.clone(),
            point: made.point.clone(),
            options: ImageOptions::default(),
            token: self.to.token(&format!("copy-{step}"))?,
        };
        Ok((made, request))
    }

    /// Looks until the copy is whole; the check's limit bounds it.
    async fn whole(&self, copy: &ImageCopy) -> Check<(u64, Option<String>)> {
        let relay = self.relay()?;
        loop {
            match relay.state(copy).await? {
                CopyState::Done { moved, proof } => return Ok((moved, proof)),
                CopyState::Running { done, total } => {
                    let more = total.is_some_and(|total| done > total);
                    ensure(!more, || format!("copy {} has done {done} bytes of {total:?}", copy.image))?;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn route(pair: &Pair<'_>) -> Check {
    let (relay, from) = (pair.relay()?, pair.peer().await?);
    let own = relay.peer().await?;
    ensure(own != from, || format!("both sites say that they are {}", own.region))?;
    let route = relay.route(&from).await?;
    let strange = Peer { domain: format!("not-{}", from.domain), region: "conformance-nowhere".to_owned(), ..from };
    match relay.route(&strange).await {
        Err(error) if error.kind() == Kind::Invalid => Ok(route.method),
        Err(error) => Err(Stop::Failed(format!("a stranger is refused for another reason: {}", error.chain()))),
        Ok(_) => Err(Stop::Failed("a site of another domain can be copied from".to_owned())),
    }
}

async fn equal(pair: &Pair<'_>) -> Check {
    let (made, request) = pair.made("relay-equal", 48).await?;
    let copy = pair.relay()?.copy(&request).await?;
    let (moved, proof) = pair.whole(&copy).await?;
    let id = pair.relay()?.commit(&copy, &request, Role::Replica).await?;
    let again = pair.relay()?.commit(&copy, &request, Role::Replica).await?;
    ensure(id == again, || format!("image {id} became image {again} when it was committed again"))?;
    let copied = Made { id: id.clone(), disks: Vec::new(), token: request.token.clone(), ..made };
    write::reads_as(pair.to, &copied).await?;
    let images = pair.to.target()?.images().await?;
    match images.iter().filter(|(listed, _)| *listed == id).map(|(_, point)| point).collect::<Vec<_>>().as_slice() {
        [point] if **point == request.point => {}
        [_] => return Err(Stop::Failed(format!("image {id} carries another point than its source"))),
        found => return Err(Stop::Failed(format!("image {id} is listed {} times", found.len()))),
    }
    let role = pair.to.made("image", "copy-relay-equal").await?.iter().all(|image| image.role == Role::Replica);
    ensure(role, || format!("image {id} was committed and is still scratch"))?;
    Ok(format!("{moved} bytes, {}", proof.as_deref().unwrap_or("not proved by the provider")))
}

async fn scratch(pair: &Pair<'_>) -> Check {
    let (_, request) = pair.made("relay-scratch", 52).await?;
    let copy = pair.relay()?.copy(&request).await?;
    let tagged = |found: &[crate::Resource]| {
        let tags = request.token.tags(Role::Scratch);
        let all = found.iter().all(|r| tags.iter().all(|(key, value)| r.tags.get(key) == Some(value)));
        found.len() == 1 && all && found[0].role == Role::Scratch
    };
    let early = pair.to.made("image", "copy-relay-scratch").await?;
    ensure(tagged(&early), || format!("copy {} is not listed as scratch with its tags: {early:?}", copy.image))?;
    pair.whole(&copy).await?;
    let late = pair.to.made("image", "copy-relay-scratch").await?;
    ensure(tagged(&late), || format!("whole copy {} is not scratch: {late:?}", copy.image))?;
    let listed = pair.to.target()?.images().await?.iter().any(|(id, _)| *id == copy.image);
    ensure(!listed, || format!("copy {} is listed as a replica before it was committed", copy.image))?;
    Ok(String::new())
}

async fn once(pair: &Pair<'_>) -> Check {
    let (made, request) = pair.made("relay-token", 56).await?;
    let relay = pair.relay()?;
    let first = relay.copy(&request).await?;
    // the process ends here; the next one knows the request, and what was journalled of the copy
    let second = relay.copy(&request).await?;
    ensure(first.image == second.image, || format!("copies {} and {} of one token", first.image, second.image))?;
    let found = pair.to.made("image", "copy-relay-token").await?.len();
    ensure(found < 2, || format!("the same token made {found} copies"))?;
    pair.whole(&second).await?;
    let journalled = serde_json::to_string(&first).ok().and_then(|text| serde_json::from_str(&text).ok());
    let first: ImageCopy = journalled.ok_or_else(|| Stop::Failed("a copy cannot be journalled".to_owned()))?;
    pair.whole(&first).await?;
    let third = relay.copy(&request).await?;
    ensure(first.image == third.image, || format!("a whole copy {} was begun again", first.image))?;
    write::reads_as(pair.to, &Made { id: third.image, ..made }).await?;
    Ok(String::new())
}

async fn cancelled(pair: &Pair<'_>) -> Check {
    let (made, request) = pair.made("relay-cancel", 60).await?;
    let relay = pair.relay()?;
    let copy = relay.copy(&request).await?;
    let found = pair.to.mine().await?;
    let step = Some(&request.token.step);
    for resource in found.iter().filter(|resource| resource.tags.get(tag::STEP) == step) {
        pair.to.cloud.delete(resource).await?;
        pair.to.cloud.delete(resource).await?;
    }
    match relay.state(&copy).await {
        Err(error) if error.kind() == Kind::NotFound => {}
        Err(error) => return Err(Stop::Failed(format!("it is told otherwise: {}", error.chain()))),
        Ok(state) => return Err(Stop::Failed(format!("cancelled copy {} goes on: {state:?}", copy.image))),
    }
    let left = pair.to.mine().await?;
    let left = left.iter().filter(|resource| resource.tags.get(tag::STEP) == step).count();
    ensure(left == 0, || format!("{left} resources of a cancelled copy are left"))?;
    write::reads_as(pair.from, &made).await?;
    Ok(String::new())
}

async fn absent(pair: &Pair<'_>) -> Check {
    let (_, request) = pair.made("relay-absent", 64).await?;
    let request = CopyRequest { image: ImageId::new("conformance-no-such-image")?, ..request };
    match pair.relay()?.copy(&request).await {
        Err(error) if error.kind() == Kind::NotFound => Ok(String::new()),
        Err(error) => Err(Stop::Failed(format!("it is told otherwise: {}", error.chain()))),
        Ok(copy) => Err(Stop::Failed(format!("copy {} of an image that does not exist was begun", copy.image))),
    }
}
