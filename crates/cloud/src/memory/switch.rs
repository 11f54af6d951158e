//! The memory cloud's power switch.

use async_trait::async_trait;
use model::{Error, Kind, Result, ServerName};

use super::MemoryCloud;
use super::fault::{Entered, Promise};
use super::state::Inner;
use crate::{Power, Stop, Switch, stays_on};

#[async_trait]
impl Switch for MemoryCloud {
    async fn stop(&self, server: &ServerName, stop: Stop) -> Result<()> {
        self.call("stop", |inner, call| {
            let machine = find(inner, server, call)?;
            if machine.power == Power::Off {
                return again(server, call);
            }
            if call.breaks(Promise::Switched) {
                return Ok(());
            }
            if machine.stubborn && !stop.force {
                return Err(stays_on(server, stop));
            }
            if let (false, Some((disk, offset, data))) = (machine.stubborn, machine.last_words.clone()) {
                machine.write(&disk, offset, &data)?;
            }
            if call.breaks(Promise::Bytes)
                && let Some(disk) = machine.disks.values_mut().next()
            {
                disk.write(0, &[0; 512]);
            }
            (machine.power, machine.clean, machine.frozen) = (Power::Off, !machine.stubborn, None);
            Ok(())
        })
        .await
    }

    async fn start(&self, server: &ServerName) -> Result<()> {
        self.call("start", |inner, call| {
            let machine = find(inner, server, call)?;
            if machine.power == Power::On {
                return again(server, call);
            }
            if !call.breaks(Promise::Switched) {
                (machine.power, machine.clean) = (Power::On, true);
            }
            Ok(())
        })
        .await
    }
}

fn find<'a>(inner: &'a mut Inner, server: &ServerName, call: &Entered<'_>) -> Result<&'a mut super::state::Machine> {
    if call.breaks(Promise::NotFoundTold) && !inner.servers.contains_key(server) {
        return Err(Error::new(Kind::Permanent, format!("cannot find server {server}")));
    }
    inner.server(server)
}

/// The answer to who asks for what is so already.
fn again(server: &ServerName, call: &Entered<'_>) -> Result<()> {
    match call.breaks(Promise::AbsentIsSuccess) {
        true => Err(Error::new(Kind::Permanent, format!("cannot switch server {server}")).because("it is so already")),
        false => Ok(()),
    }
}
