//! Calls against a model of a service that throttles by a token bucket, on simulated time.

use std::cell::Cell;
use std::rc::Rc;

use model::Error;
use tokio::time::sleep;

use super::*;

const FIRST: usize = 32;
const MOST: usize = 128;

fn throttled() -> Result<()> {
    Err(Error::new(Kind::Throttled, "cannot put"))
}

/// A service: so many calls a second, so many at once after a pause, each answered after a while.
struct Service {
    rate: Cell<f64>,
    burst: f64,
    latency: Duration,
    level: Cell<f64>,
    at: Cell<Instant>,
    accepted: Cell<u32>,
    throttled: Cell<u32>,
}

impl Service {
    fn new(rate: f64, burst: f64, millis: u64) -> Rc<Self> {
        let latency = Duration::from_millis(millis);
        let (level, at) = (Cell::new(burst), Cell::new(Instant::now()));
        let (accepted, throttled) = (Cell::default(), Cell::default());
        Rc::new(Self { rate: Cell::new(rate), burst, latency, level, at, accepted, throttled })
    }

    async fn call(&self) -> Result<()> {
        sleep(self.latency / 2).await;
        let now = Instant::now();
        let gained = now.duration_since(self.at.replace(now)).as_secs_f64() * self.rate.get();
        let level = (self.level.get() + gained).min(self.burst);
        self.level.set(if level < 1.0 { level } else { level - 1.0 });
        sleep(self.latency / 2).await;
        if level < 1.0 {
            self.throttled.set(self.throttled.get() + 1);
            return throttled();
        }
        self.accepted.set(self.accepted.get() + 1);
        Ok(())
    }
}

/// As many callers as there are turns, for so many seconds; tells what was accepted and throttled meanwhile.
async fn busy(service: &Rc<Service>, flight: &Rc<Flight>, seconds: u64) -> (f64, f64) {
    let before = (service.accepted.get(), service.throttled.get());
    let callers = tokio::task::LocalSet::new();
    for _ in 0..MOST {
        let (service, flight) = (Rc::clone(service), Rc::clone(flight));
        callers.spawn_local(async move {
            loop {
                let turn = flight.turn().await;
                let answer = service.call().await;
                if !turn.end(&answer) && answer.is_err() {
                    sleep(Duration::from_millis(150)).await;
                }
            }
        });
    }
    let _ = tokio::time::timeout(Duration::from_secs(seconds), callers).await;
    (f64::from(service.accepted.get() - before.0), f64::from(service.throttled.get() - before.1))
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_used_whatever_it_is_and_however_long_answers_take() {
    for rate in [50.0, 200.0, 1000.0] {
        for burst in [rate / 20.0, rate] {
            for millis in [5, 50, 100] {
                let (service, flight) = (Service::new(rate, burst, millis), Rc::new(Flight::new(FIRST, MOST)));
                let (accepted, _) = busy(&service, &flight, 10).await;
                let used = (accepted - burst) / (10.0 * rate);
                assert!(used >= 0.95, "{used} of {rate} a second, {burst} at once, {millis} ms");
                // the limit is known now
                let (accepted, throttled) = busy(&service, &flight, 10).await;
                let (used, refused) = (accepted / (10.0 * rate), throttled / accepted);
                assert!(used >= 0.95, "{used} of {rate} a second, {burst} at once, {millis} ms, later");
                assert!(refused < 0.1, "{refused} throttled at {rate} a second, {burst} at once, {millis} ms");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_changes_is_followed() {
    let (service, flight) = (Service::new(900.0, 50.0, 50), Rc::new(Flight::new(FIRST, MOST)));
    busy(&service, &flight, 5).await;
    for (rate, settles) in [(300.0, 2), (900.0, 10), (0.0, 5), (900.0, 30)] {
        service.rate.set(rate);
        busy(&service, &flight, settles).await;
        let (accepted, throttled) = busy(&service, &flight, 10).await;
        let told = format!("{accepted} and {throttled} throttled of {rate} a second, pace {:?}", flight.pace());
        assert!(accepted >= 9.5 * rate && throttled <= (accepted * 0.1).max(10.0 * SLOWEST + 1.0), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_bears_so_many_at_once_is_kept_busy_too() {
    let (most, flying) = (20, Rc::new(Cell::new(0)));
    let (flight, done, refused) = (Rc::new(Flight::new(FIRST, MOST)), Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let callers = tokio::task::LocalSet::new();
    for _ in 0..MOST {
        let (flying, flight, done, refused) = (flying.clone(), flight.clone(), done.clone(), refused.clone());
        callers.spawn_local(async move {
            loop {
                let turn = flight.turn().await;
                flying.set(flying.get() + 1);
                let fits = flying.get() <= most;
                sleep(Duration::from_millis(if fits { 50 } else { 5 })).await;
                flying.set(flying.get() - 1);
                let count = if fits { &done } else { &refused };
                count.set(count.get() + 1);
                turn.end(&if fits { Ok(()) } else { Err(Error::new(Kind::Throttled, "cannot put")) });
            }
        });
    }
    let _ = tokio::time::timeout(Duration::from_secs(20), callers).await;
    // 20 that take 50 ms are 400 a second
    assert!(done.get() >= 7500 && refused.get() < 800, "{} and {} refused", done.get(), refused.get());
}

#[tokio::test(start_paused = true)]
async fn without_throttling_it_comes_to_its_most() {
    let (service, flight) = (Service::new(1e6, 1e6, 50), Rc::new(Flight::new(8, MOST)));
    assert_eq!(flight.allowed(), 8);
    let (accepted, _) = busy(&service, &flight, 10).await;
    assert_eq!((flight.allowed(), flight.pace()), (MOST, None));
    assert!(accepted > 0.95 * 10.0 * MOST as f64 / 0.05, "{accepted}");
}

#[tokio::test(start_paused = true)]
async fn calls_one_by_one_change_nothing() {
    let flight = Flight::new(8, 64);
    for _ in 0..100 {
        assert!(!flight.turn().await.end(&throttled()), "who calls waits as it would without others");
        assert!(!flight.turn().await.end(&Ok(())));
    }
    assert_eq!((flight.allowed(), flight.pace()), (8, None));
}

#[tokio::test(start_paused = true)]
async fn who_is_told_when_to_come_back_waits_for_it() {
    let flight = Flight::new(8, 64);
    let mut turns = Vec::new();
    for _ in 0..8 {
        turns.push(flight.turn().await);
    }
    assert!(turns.pop().unwrap().end(&throttled()), "the pace spaces it");
    let later = throttled().map_err(|error| error.come_back_after(Duration::from_secs(7)));
    assert!(!turns.pop().unwrap().end(&later));
    assert!(flight.pace().is_some());
}
