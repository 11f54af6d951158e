//! An instance of an image runs, leaves the image as it is, and is gone when it is destroyed.

use model::{Kind, Role, ServerName};

use super::write::{self, Made};
use super::{Bench, Check, Stop, ensure, skip};
use crate::{Instance, LaunchOptions, Network};

pub(super) async fn check(bench: &Bench<'_>) {
    bench.check("launch.same-token", "the same token gives the same instance", same_token(bench)).await;
    bench.check("launch.tagged", "an instance of a drill is scratch, and carries its tags", tagged(bench)).await;
    bench.check("launch.image", "the image stays as it is", untouched(bench)).await;
    bench
        .check(
            "launch.destroyed",
            "a destroyed instance is gone, and destroying it again is harmless",
            destroyed(bench),
        )
        .await;
}

async fn launch(bench: &Bench<'_>, step: &str) -> Check<(Made, Instance)> {
    if !bench.probe.may_launch() {
        return skip("no instance may be launched here");
    }
    let made = write::image(bench, step, 24, Role::Scratch).await?;
    let instance = start(bench, &made, step).await?;
    Ok((made, instance))
}

async fn start(bench: &Bench<'_>, made: &Made, step: &str) -> Check<Instance> {
    let options = LaunchOptions {
        name: ServerName::new(format!("conformance-{step}"))?,
        network: Network::Isolated,
        ports: Vec::new(),
        ephemeral: true,
    };
    Ok(bench.target()?.launch(&made.id, &options, &bench.token(step)?).await?)
}

async fn same_token(bench: &Bench<'_>) -> Check {
    let (made, first) = launch(bench, "launch-token").await?;
    let second = start(bench, &made, "launch-token").await?;
    let count = bench.made("instance", "launch-token").await?.len();
    for instance in [&first, &second] {
        bench.target()?.destroy(&instance.id).await?;
    }
    ensure(first.id == second.id, || format!("instances {} and {} of one token", first.id, second.id))?;
    ensure(count < 2, || format!("the same token made {count} instances"))?;
    Ok(String::new())
}

async fn tagged(bench: &Bench<'_>) -> Check {
    let (_, instance) = launch(bench, "launch-tags").await?;
    let found = bench.made("instance", "launch-tags").await?;
    bench.target()?.destroy(&instance.id).await?;
    let roles: Vec<Role> = found.iter().map(|resource| resource.role).collect();
    ensure(roles == [Role::Scratch], || format!("instance {} is listed with the roles {roles:?}", instance.id))?;
    Ok(String::new())
}

async fn untouched(bench: &Bench<'_>) -> Check {
    let (made, instance) = launch(bench, "launch-image").await?;
    let state = bench.target()?.probe(&instance.id).await?;
    bench.target()?.console(&instance.id).await?;
    bench.target()?.destroy(&instance.id).await?;
    write::reads_as(bench, &made).await?;
    ensure(!state.panicked, || "a guest panic is told though nothing booted".to_owned())?;
    Ok(if state.running { "the instance ran".to_owned() } else { "the instance had stopped".to_owned() })
}

async fn destroyed(bench: &Bench<'_>) -> Check {
    let (_, instance) = launch(bench, "launch-destroy").await?;
    let target = bench.target()?;
    target.destroy(&instance.id).await?;
    let left = bench.made("instance", "launch-destroy").await?.len();
    ensure(left == 0, || format!("instance {} is still listed", instance.id))?;
    match target.probe(&instance.id).await {
        Ok(state) => ensure(!state.running, || format!("instance {} still runs", instance.id))?,
        Err(error) if error.kind() == Kind::NotFound => {}
        Err(error) => return Err(Stop::Failed(format!("it is told otherwise: {}", error.chain()))),
    }
    target.destroy(&instance.id).await?;
    Ok(String::new())
}
