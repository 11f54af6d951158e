//! Rules at work around one call.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::Delivery;
use super::rule::Fault;
use crate::http::{Request, Response};
use crate::sim::Sim;

/// What a call meets, decided before it is made.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    hits: Vec<(String, Fault)>,
}

impl Trouble {
    /// Asks all rules about a call, counts and logs those that fire.
    pub(crate) fn of(sim: &Sim, request_id: &str, operation: &str, request: &Request) -> Self {
        let mut text = request.path.clone();
        for (name, value) in &request.query {
            text.push_str(&format!(" {name}={value}"));
        }
        if request.method == "POST" {
            text.push(' ');
            text.push_str(&String::from_utf8_lossy(&request.body));
        }
        let hits = sim.with(|world| {
            let fired = world.rules.iter_mut().filter_map(|rule| {
                rule.fires(operation, &text).then(|| (rule.name.clone(), rule.seen, rule.fault.clone()))
            });
            fired.collect::<Vec<_>>()
        });
        for (name, seen, fault) in &hits {
            sim.hits.add(&json!({
                "request": request_id, "operation": operation, "rule": name, "call": seen, "fault": fault,
            }));
        }
        Self { hits: hits.into_iter().map(|(name, _, fault)| (name, fault)).collect() }
    }

    fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.hits.iter().map(|(_, fault)| fault)
    }

    /// How long to wait first.
    pub(crate) fn delay(&self) -> Duration {
        let seconds = self.faults().map(|fault| if let Fault::Delay { seconds } = fault { *seconds } else { 0.0 });
        Duration::try_from_secs_f64(seconds.sum()).unwrap_or_default()
    }

    /// The answer that stands in for the call, which is then not made.
    pub(crate) fn instead(&self) -> Option<(u16, Option<String>, Option<u64>)> {
        self.faults().find_map(|fault| match fault {
            Fault::Status { status, code, retry_after } => Some((*status, code.clone(), *retry_after)),
            _ => None,
        })
    }

    pub(crate) fn twice(&self) -> bool {
        self.faults().any(|fault| matches!(fault, Fault::Twice))
    }

    pub(crate) fn stale(&self) -> bool {
        self.faults().any(|fault| matches!(fault, Fault::Stale))
    }

    /// The request as it arrives.
    pub(crate) fn arrive(&self, request: &mut Request) {
        for fault in self.faults() {
            if let Fault::Flip { byte, bit, request: true } = fault {
                request.body = flip(&request.body, *byte, *bit);
            }
        }
    }

    /// The answer as it leaves.
    pub(crate) fn leave(&self, mut response: Response) -> Delivery {
        for fault in self.faults() {
            match fault {
                Fault::Drop => return Delivery::Nothing { reset: false },
                Fault::Reset { after: None } => return Delivery::Nothing { reset: true },
                Fault::Reset { after: Some(after) } => return Delivery::Cut { response, after: *after, reset: true },
                Fault::Truncate { after } => return Delivery::Cut { response, after: *after, reset: false },
                Fault::Flip { byte, bit, request: false } => response.body = flip(&response.body, *byte, *bit),
                _ => {}
            }
        }
        Delivery::Whole(response)
    }
}

fn flip(body: &Bytes, byte: usize, bit: u8) -> Bytes {
    let mut bytes = body.to_vec();
    // beyond the end it is the last byte that suffers: a rule that hit nothing would be no fault
    let last = bytes.len().saturating_sub(1);
    if let Some(hit) = bytes.get_mut(byte.min(last)) {
        *hit ^= 1 << (bit % 8);
    }
    bytes.into()
}
