//! Instances held to what they are wanted to be: started, stopped, paused for a snapshot, given disks.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use serde_json::json;

use super::{Device, Machine, Running, command, locked};
use crate::clock::later;
use crate::error::{Answer, ApiError};
use crate::sim::Sim;
use crate::world::World;
use crate::world::resource::Wish;

/// How long a guest may take to shut down when it is asked to (real seconds).
const GRACE: Duration = Duration::from_secs(10);

/// Nobody looks for a terminated instance after so many simulated seconds.
const REMEMBERED: f64 = 3600.0;

/// More memory than this is not given to a guest: the test machine has to hold several.
const MEMORY_MIB: u64 = 512;

fn describe(sim: &Sim, world: &World, id: &str) -> Option<Machine> {
    let instance = world.instances.get(id)?;
    let disks = world.attached_to(id, &instance.root);
    let memory = crate::ec2::types::find(&instance.kind).map_or(1024, |it| it.memory_mib);
    Some(Machine {
        id: id.to_owned(),
        architecture: instance.architecture.clone(),
        uefi: instance.boots_by_uefi(),
        memory_mib: memory.min(MEMORY_MIB),
        mac: instance.mac.clone(),
        disks: disks.into_iter().map(|(_, it)| (it.base.id.clone(), sim.volume(&it.base.id))).collect(),
        device: Device::Nvme,
    })
}

/// Boots an instance.
pub(crate) fn start(sim: &Sim, id: &str) -> Answer<()> {
    if let Some(machine) = sim.with(|world| describe(sim, world, id)) {
        sim.machines.start(&machine)?;
    }
    Ok(())
}

/// Boots what was running when the simulator ended. One that does not boot is stopped, and says why.
pub(crate) fn restart(sim: &Sim) {
    let wanted: Vec<String> = sim.with(|world| {
        let running = world.instances.values().filter(|it| it.wish == Wish::Running);
        running.map(|it| it.base.id.clone()).collect()
    });
    for id in wanted {
        if let Err(why) = start(sim, &id) {
            settle(sim, &id, Wish::Stopped, &format!("Server.InternalError: {}", why.message));
        }
    }
    crate::azure::restart(sim);
}

fn settle(sim: &Sim, id: &str, wish: Wish, reason: &str) {
    // a world that cannot be saved is told to whoever changes it next
    let _ = sim.change(|world| {
        let now = world.now();
        if let Some(instance) = world.instances.get_mut(id) {
            (instance.wish, instance.settles, instance.reason) = (wish, now, reason.to_owned());
        }
        Ok(())
    });
}

/// Notices guests that have shut themselves down, and forgets instances that ended long ago.
pub(crate) fn reap(sim: &Sim) {
    for id in sim.machines.ended() {
        crate::azure::noticed(sim, &id);
        let terminate = sim.with(|world| world.instances.get(&id).is_some_and(|it| it.terminate_on_shutdown));
        let reason = "Client.InstanceInitiatedShutdown: Instance initiated shutdown";
        settle(sim, &id, if terminate { Wish::Terminated } else { Wish::Stopped }, reason);
        if terminate {
            let _ = drop_volumes(sim, &id);
        }
    }
    let old: Vec<String> = sim.with(|world| {
        let now = world.now();
        let ended = world.instances.values().filter(|it| it.wish == Wish::Terminated);
        ended.filter(|it| later(it.settles, REMEMBERED) < now).map(|it| it.base.id.clone()).collect()
    });
    if !old.is_empty() {
        let _ = sim.change(|world| {
            world.instances.retain(|id, _| !old.contains(id));
            Ok(())
        });
        old.iter().for_each(|id| sim.machines.forget(id));
    }
}

/// Asks a guest to shut down, and ends it if it does not.
pub(crate) fn power_off(sim: &Sim, id: &str) {
    sim.machines.stop(id, GRACE);
}

/// Ends a machine at once.
pub(crate) fn pull_the_plug(sim: &Sim, id: &str) {
    sim.machines.stop(id, Duration::ZERO);
}

/// Deletes the volumes that go with an instance, and lets go of the others.
pub(crate) fn drop_volumes(sim: &Sim, id: &str) -> Answer<()> {
    let gone = sim.change(|world| {
        let mut gone = Vec::new();
        for volume in world.volumes.values_mut() {
            if volume.attached.as_ref().is_some_and(|at| at.instance == id) {
                let delete = volume.attached.take().is_some_and(|at| at.delete);
                if delete {
                    gone.push(volume.base.id.clone());
                }
            }
        }
        world.volumes.retain(|id, _| !gone.contains(id));
        Ok(gone)
    })?;
    for volume in gone {
        std::fs::remove_file(sim.volume(&volume))?;
    }
    Ok(())
}

/// Machines that stand still. They go on when this is dropped, whatever happened meanwhile.
pub(crate) struct Still<'a> {
    machines: Vec<Arc<Running>>,
    _alone: MutexGuard<'a, ()>,
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        for machine in &self.machines {
            // one that has ended meanwhile needs no word
            let _ = locked(&machine.qmp).run("cont", None);
        }
    }
}

/// Lets machines stand still: their disks are flushed by it, and nothing is written until they go on.
pub(crate) fn still<'a>(sim: &'a Sim, ids: &[String]) -> Answer<Still<'a>> {
    let mut still = Still { machines: Vec::new(), _alone: locked(&sim.machines.pausing) };
    for id in ids {
        let Some(machine) = sim.machines.get(id) else { continue };
        still.machines.push(machine.clone());
        locked(&machine.qmp).run("stop", None)?;
    }
    Ok(still)
}

/// Plugs a volume into a machine, if it runs.
pub(crate) fn plug(sim: &Sim, id: &str, volume: &str) -> Answer<()> {
    let Some(machine) = sim.machines.get(id) else { return Ok(()) };
    let mut qmp = locked(&machine.qmp);
    qmp.run("blockdev-add", Some(command::backend(volume, &sim.volume(volume))))?;
    let device = format!("{volume}-dev");
    let mut last = None;
    for port in 0..command::HOT_PORTS {
        let arguments = json!({
            "driver": "nvme", "id": device, "drive": volume, "serial": command::serial(volume), "bus": format!("hot{port}"),
        });
        match qmp.run("device_add", Some(arguments)) {
            Ok(_) => return Ok(()),
            Err(why) => last = Some(why),
        }
    }
    let _ = qmp.run("blockdev-del", Some(json!({ "node-name": volume })));
    let why = last.map(|why| why.to_string()).unwrap_or_default();
    Err(ApiError::refuse("AttachmentLimitExceeded", format!("{volume} cannot be attached to {id}: {why}")))
}

/// Unplugs a volume. The guest has to let go of it; where it does not in time, the volume is busy.
pub(crate) fn unplug(sim: &Sim, id: &str, volume: &str) -> Answer<()> {
    let Some(machine) = sim.machines.get(id) else { return Ok(()) };
    let mut qmp = locked(&machine.qmp);
    let device = json!({ "id": format!("{volume}-dev") });
    qmp.run("device_del", Some(device))?;
    for _ in 0..200 {
        if qmp.run("blockdev-del", Some(json!({ "node-name": volume }))).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(ApiError::refuse("IncorrectState", format!("{volume} is busy: the guest of {id} does not let go of it")))
}
