//! Access to the bytes of a disk or snapshot: a SAS that is begun, shared by all readers here, renewed when it has run
//! out, and ended when the last of them is done.
//!
//! A process that dies leaves the SAS to its own end, which is why one is never long; what is deleted ends it first.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as Plain, PoisonError};
use std::time::Duration;

use model::{Error, Kind, Result};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::arm::What;
use super::http::Client;
use super::patience::patiently;

/// How long a SAS for reading lasts; it is renewed as often as is needed.
const READ_SECONDS: u32 = 3600;
/// How long one for writing lasts: an upload cannot be renewed without being taken for finished.
const WRITE_SECONDS: u32 = 24 * 3600;

/// Accesses that are on their way to their end, of all sites of this process.
static ENDING: AtomicUsize = AtomicUsize::new(0);

/// One of them, until it is dropped.
struct Ending;

impl Ending {
    fn new() -> Self {
        ENDING.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        ENDING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits until accesses that nobody holds any more have ended, at most for `limit`: the end of the process would leave
/// them open until their time is over.
pub async fn settle(limit: Duration) {
    let until = Instant::now() + limit;
    while ENDING.load(Ordering::SeqCst) > 0 && Instant::now() < until {
        sleep(Duration::from_millis(10)).await;
    }
}

/// The SAS that are open, by name.
#[derive(Default)]
pub(super) struct Accesses(Plain<HashMap<String, Arc<Mutex<Slot>>>>);

#[derive(Default)]
struct Slot {
    holders: usize,
    url: Option<SecretString>,
    /// Counts them.
    number: u64,
}

/// The right to a disk's bytes. Dropped, it is given back.
pub(super) struct Access {
    client: Client,
    what: What,
    name: String,
    write: bool,
    slot: Option<Arc<Mutex<Slot>>>,
}

impl Accesses {
    /// Begins access, or joins whoever has it.
    pub(super) async fn open(&self, client: &Client, what: What, name: &str, write: bool) -> Result<Access> {
        let slot = if write {
            // whoever uploads does it alone
            Arc::default()
        } else {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|slot| slot.holders > 0));
            all.entry(client.id(what, name)).or_default().clone()
        };
        slot.lock().await.holders += 1;
        let access = Access { client: client.clone(), what, name: name.to_owned(), write, slot: Some(slot) };
        access.url().await?;
        Ok(access)
    }
}

impl Access {
    /// The address, and which one it is.
    pub(super) async fn url(&self) -> Result<(SecretString, u64)> {
        let Some(slot) = &self.slot else { return Err(self.ended()) };
        let mut slot = slot.lock().await;
        if let Some(url) = &slot.url {
            return Ok((url.clone(), slot.number));
        }
        let url = self.begin().await?;
        slot.number += 1;
        slot.url = Some(url.clone());
        Ok((url, slot.number))
    }

    /// The address was refused: the next call begins another one.
    pub(super) async fn refused(&self, number: u64) {
        if let Some(slot) = &self.slot {
            let mut slot = slot.lock().await;
            if slot.number == number && !self.write {
                slot.url = None;
            }
        }
    }

    fn ended(&self) -> Error {
        Error::new(Kind::Permanent, format!("cannot use {} {}", self.what.word(), self.name))
            .because("access to it has ended")
    }

    async fn begin(&self) -> Result<SecretString> {
        let (access, seconds) = if self.write { ("Write", WRITE_SECONDS) } else { ("Read", READ_SECONDS) };
        let body = json!({ "access": access, "durationInSeconds": seconds });
        let ask = || self.client.act(self.what, &self.name, "beginGetAccess", &body);
        let answer = match ask().await {
            // a dead process or a lost answer has left one
            Err(error) if error.kind() == Kind::Invalid && error.chain().contains("SAS") => {
                if self.write {
                    // to end it would end the upload: whoever asked makes the disk anew, of which nothing was sent yet
                    return Err(Error::new(Kind::Transient, format!("cannot write disk {}", self.name))
                        .because("the address of its upload was lost with an answer"));
                }
                end(&self.client, self.what, &self.name).await?;
                ask().await
            }
            answer => answer,
        }?;
        let url = answer.get("accessSAS").and_then(Value::as_str);
        url.map(|url| url.to_owned().into()).ok_or_else(|| {
            Error::new(Kind::Permanent, format!("cannot open {} {}", self.what.word(), self.name))
                .because("the answer has no address")
        })
    }

    /// Ends the access and waits for that. Of an upload this is what makes a disk of it.
    pub(super) async fn close(mut self) -> Result<()> {
        let Some(slot) = self.slot.take() else { return Ok(()) };
        give_back(&self.client, self.what, &self.name, &slot).await
    }
}

async fn end(client: &Client, what: What, name: &str) -> Result<()> {
    match client.act(what, name, "endGetAccess", &Value::Null).await {
        Err(error) if error.kind() == Kind::NotFound => {}
        other => drop(other?),
    }
    Ok(())
}

async fn give_back(client: &Client, what: What, name: &str, slot: &Mutex<Slot>) -> Result<()> {
    let mut slot = slot.lock().await;
    slot.holders = slot.holders.saturating_sub(1);
    if slot.holders > 0 || slot.url.take().is_none() {
        return Ok(());
    }
    // nobody above can repeat it, and an upload whose end failed would be begun anew
    patiently("end access", || end(client, what, name)).await
}

impl Drop for Access {
    fn drop(&mut self) {
        // to end an upload is to make a disk of it; one that is broken off is deleted, which ends the access first
        if self.write {
            return;
        }
        let (Some(slot), Ok(runtime)) = (self.slot.take(), tokio::runtime::Handle::try_current()) else { return };
        let (client, what, name) = (self.client.clone(), self.what, std::mem::take(&mut self.name));
        let ending = Ending::new();
        runtime.spawn(async move {
            let _ending = ending;
            if let Err(error) = give_back(&client, what, &name, &slot).await {
                tracing::warn!(name, error = error.chain(), "access stays open until its time is over");
            }
        });
    }
}

/// Where it leads, without what makes it a secret.
pub(super) fn expose(url: &SecretString) -> &str {
    url.expose_secret()
}
