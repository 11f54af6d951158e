//! Publishes images in galleries, where a policy asks for that: once they are verified, so that nobody makes a server of one that
//! is not what its point says.
//!
//! Nothing waits for it: how far a region is, and what failed there, is looked at by every later run of the policy and by `verify`, until
//! all regions have it. A run that cannot publish has made its point all the same, and says so.

use model::{Error, Kind, Place, Policy, Published, Replica, Replication, Result, ServerName, crash};

use crate::Engine;
use crate::ledger::{self, Batch, Tree};
use crate::records::replica_key;

/// Begins or looks after all images of a server that the policy has made at a place. Answers what is to be told of them.
pub(crate) async fn run(engine: &Engine, policy: &Policy, server: &ServerName, place: &Place) -> Result<Vec<String>> {
    let (Some(gallery), Place::Site(name)) = (policy.image_options(place).gallery, place) else {
        return Ok(Vec::new());
    };
    let target = engine.site(name)?.target().ok_or_else(|| {
        Error::new(Kind::Invalid, format!("cannot publish images of {place}")).because("it has no images")
    })?;
    let mut told = Vec::new();
    for held in engine.held(place).await? {
        let ours = held.point.server == *server && held.point.policy.as_ref() == Some(&policy.name);
        let (true, Some(image)) = (ours, &held.image) else { continue };
        let key = replica_key(&held.point.id, place);
        let known = || ledger::get::<Replica>(&*engine.ledger, Tree::Replicas, &key);
        let Some(replica) = known().await?.filter(|replica| replica.state.is_good()) else { continue };
        if replica.published.as_ref().is_some_and(|known| known.is_whole() && known.asked == gallery) {
            continue;
        }
        let options = policy.image_options(place).of(&held.point);
        crash::point("run.publish.before");
        let published = target.publish(image, &options).await;
        crash::point("run.publish.after");
        match published {
            Ok(published) => {
                told.extend(failures(image.as_str(), &published));
                // as it is by now: others judge it meanwhile
                let Some(replica) = known().await? else { continue };
                let mut batch = Batch::new();
                batch.put(Tree::Replicas, &*key, &Replica { published: Some(published), ..replica })?;
                engine.ledger.commit(batch).await?;
            }
            // another one may do
            Err(error) => told.push(error.chain()),
        }
    }
    Ok(told)
}

fn failures(image: &str, published: &Published) -> Vec<String> {
    let failed = published.regions.iter().filter_map(|(region, state)| match state {
        Replication::Failed(why) => Some(format!("image {image} did not come to {region}, and is sent again: {why}")),
        _ => None,
    });
    failed.collect()
}
