//! Behaviour of the retry decorator, on the memory cloud and in virtual time.

use super::*;
use crate::memory::{Fault, MemoryCloud, Rule, tests::machine};
use crate::{Consistent, Hook};
use model::{Consistency, ManualClock, OwnerId, RunId};

fn retrying(deadline: u64) -> (MemoryCloud, Retrying) {
    let clock = Arc::new(ManualClock::new("2026-11-22T03:00:00Z".parse().unwrap()));
    let cloud = MemoryCloud::new(SiteName::new("lab").unwrap(), clock);
    cloud.add_server(ServerName::new("web-1").unwrap(), machine(&["vda"]));
    let patience = Patience { deadline: Duration::from_secs(deadline), ..Patience::default() };
    let options = RetryOptions { patience, ..RetryOptions::default() };
    (cloud.clone(), Retrying::new(Arc::new(cloud), options))
}

fn request() -> CaptureRequest {
    let server = ServerName::new("web-1").unwrap();
    let token = Token {
        owner: OwnerId::new("test").unwrap(),
        policy: None,
        server: server.clone(),
        run: RunId::new("r1").unwrap(),
        step: "capture".into(),
    };
    let freeze_limit = Duration::from_secs(1);
    let consistent = Consistent { level: Consistency::Crash, required: false, hook: Hook::default(), freeze_limit };
    CaptureRequest { server, consistent, since: None, token }
}

#[tokio::test(start_paused = true)]
async fn retryable_kinds_are_tried_again_and_others_are_not() {
    let (cloud, site) = retrying(60);
    for kind in [Kind::Transient, Kind::Throttled, Kind::NotYetVisible] {
        cloud.inject(Rule { times: 3, ..Rule::new("servers", 1, Fault::FailBefore(kind)) });
        assert_eq!(site.servers().await.unwrap().len(), 1, "{kind:?}");
        cloud.heal();
    }
    let before = cloud.calls().len();
    cloud.inject(Rule::new("servers", 1, Fault::FailBefore(Kind::Denied)));
    assert_eq!(site.servers().await.unwrap_err().kind(), Kind::Denied);
    assert_eq!(cloud.calls().len(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_makes_no_second_capture() {
    let (cloud, site) = retrying(60);
    cloud.inject(Rule { times: 2, ..Rule::new("capture", 1, Fault::FailAfter(Kind::Transient)) });
    site.capture(&request()).await.unwrap();
    assert_eq!((cloud.hits().len(), site.owned().await.unwrap().len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn one_deadline_holds_for_all_attempts_and_keeps_the_kind() {
    let (cloud, site) = retrying(60);
    cloud.inject(Rule::always("servers", Fault::FailBefore(Kind::Transient)));
    let started = Instant::now();
    let error = site.servers().await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    assert!(started.elapsed() > Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(error.kind(), Kind::Transient);
    assert!(error.chain().contains("gave up after"), "{}", error.chain());
    let attempts = cloud.calls().len();
    assert!((5..20).contains(&attempts), "{attempts} attempts");
}

#[tokio::test(start_paused = true)]
async fn a_look_that_hangs_is_cut_off_and_an_effect_is_not() {
    let (cloud, site) = retrying(60);
    cloud.inject(Rule::always("servers", Fault::HangBefore));
    let error = site.servers().await.unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Transient, "cannot list servers within 60 s"));
    cloud.inject(Rule::new("capture", 1, Fault::Delay(Duration::from_secs(600))));
    site.capture(&request()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn readers_are_retried_too() {
    let (cloud, site) = retrying(60);
    let capture = site.capture(&request()).await.unwrap();
    let reader = site.open(&capture, &DiskName::new("vda").unwrap(), false).await.unwrap();
    cloud.inject(Rule { times: 2, ..Rule::new("read", 1, Fault::FailBefore(Kind::Transient)) });
    assert_eq!(reader.read_at(0, 512).await.unwrap().len(), 512);
    assert_eq!(cloud.hits().len(), 2);
}

/// All of a site's calls share one flight, which a throttling gives a pace.
#[tokio::test(start_paused = true)]
async fn a_throttled_site_has_a_pace() {
    let (cloud, site) = retrying(600);
    let first = site.shared.flight.allowed();
    cloud.inject(Rule::always("servers", Fault::Delay(Duration::from_secs(1))));
    cloud.inject(Rule { times: 5, ..Rule::new("servers", 1, Fault::FailBefore(Kind::Throttled)) });
    futures::future::join_all((0..first).map(|_| site.servers())).await;
    assert!(site.shared.flight.pace().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_site_says_when_to_come_back() {
    let (_, site) = retrying(600);
    let (started, calls) = (Instant::now(), AtomicU64::new(0));
    let call = || async {
        match calls.fetch_add(1, Ordering::SeqCst) {
            0 => Err(Error::new(Kind::Throttled, "cannot list").come_back_after(Duration::from_secs(77))),
            _ => Ok(()),
        }
    };
    site.shared.retry(Call::Look, "list", call).await.unwrap();
    assert_eq!((started.elapsed(), calls.into_inner()), (Duration::from_secs(77), 2));
}
