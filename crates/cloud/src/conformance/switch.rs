//! A server that is stopped is off with all that it wrote, can be captured with its changes known, and runs again when it is started.

use std::time::Duration;

use model::{Error, Kind, ServerName};

use super::content::pattern;
use super::{Bench, Check, Stop as End, ensure, skip};
use crate::{Outcome, Power, Stop, Switch};

/// A system that answers gets this long; the power of one that does not is cut, so that the suite works on machines without a system.
const STOP: Stop = Stop { limit: Duration::from_secs(1), force: true };

pub(super) async fn check(bench: &Bench<'_>) {
    bench.check("switch.off", "a stopped server is off, and stopping it again is harmless", off(bench)).await;
    bench.check("switch.capture", "a stopped server is captured with all that it wrote", captured(bench)).await;
    bench.check("switch.on", "a started server is on, and starting it again is harmless", on(bench)).await;
    bench.check("switch.absent", "a server that does not exist is told as such", absent(bench)).await;
}

fn switch<'a>(bench: &'a Bench<'_>) -> Check<(&'a dyn Switch, ServerName)> {
    let Some(switch) = bench.cloud.switch() else { return skip("the site switches no servers") };
    if !bench.probe.may_switch() {
        return skip("no server may be switched off");
    }
    Ok((switch, bench.server()?))
}

async fn is(bench: &Bench<'_>, server: &ServerName, wanted: Power) -> Check<()> {
    let found = bench.source()?.describe(server).await?.power;
    ensure(found == wanted, || format!("server {server} is {found:?}, not {wanted:?}"))
}

async fn off(bench: &Bench<'_>) -> Check {
    let (switch, server) = switch(bench)?;
    for _ in 0..2 {
        switch.stop(&server, STOP).await?;
        is(bench, &server, Power::Off).await?;
    }
    Ok(String::new())
}

async fn on(bench: &Bench<'_>) -> Check {
    let (switch, server) = switch(bench)?;
    switch.stop(&server, STOP).await?;
    for _ in 0..2 {
        switch.start(&server).await?;
        is(bench, &server, Power::On).await?;
    }
    Ok(String::new())
}

async fn absent(bench: &Bench<'_>) -> Check {
    let (switch, _) = switch(bench)?;
    let absent = ServerName::new("conformance-no-such-server")?;
    for answer in [switch.stop(&absent, STOP).await, switch.start(&absent).await] {
        let kind = answer.as_ref().err().map(Error::kind);
        ensure(kind == Some(Kind::NotFound), || format!("an absent server is answered with {answer:?}"))?;
    }
    Ok(String::new())
}

/// The last that a server writes before it goes off is in the capture, among the changes since an earlier one.
async fn captured(bench: &Bench<'_>) -> Check {
    let (switch, server) = switch(bench)?;
    switch.start(&server).await?;
    let base = bench.capture("switch-base", None).await?;
    let source = bench.source()?;
    source.release(&base, Outcome::Committed).await?;
    let last = pattern(13, 4096);
    let disk = base.disks.first().ok_or_else(|| End::Failed("the machine has no disk".to_owned()))?.name.clone();
    bench.guest_writes(&disk, 0, &last).await?;
    switch.stop(&server, STOP).await?;
    let capture = bench.capture("switch", base.cursor.clone()).await?;
    let reader = source.open(&capture, &disk, true).await?;
    ensure(reader.read_at(0, last.len()).await? == last, || format!("disk {disk} lacks what was written last"))?;
    if base.cursor.is_some() {
        ensure(reader.is_incremental(), || format!("the changes of disk {disk} are not known any more"))?;
    }
    drop(reader);
    source.release(&capture, Outcome::Abandoned).await?;
    switch.start(&server).await?;
    Ok(format!("consistency {}", capture.consistency))
}
