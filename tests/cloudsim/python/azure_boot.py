"""A real guest on Azure's device model: uploaded through a SAS, booted by UEFI, captured while it writes, its copy booted by
BIOS."""

import os
import re
import sys
import time
import urllib.request

from azure.core.exceptions import HttpResponseError

from azure_client import MIB, blob, compute, judged, snapshot, upload
from world import Sim

GUEST = sys.argv[1]
CARD = "/subscriptions/x/resourceGroups/prod/providers/Microsoft.Network/networkInterfaces/card"


def console(client, name, group="prod"):
    at = client.virtual_machines.retrieve_boot_diagnostics_data(group, name).serial_console_log_blob_uri
    with urllib.request.urlopen(at, timeout=60) as answer:
        return answer.read().decode(errors="replace")


def until(client, name, what, seconds=400, group="prod"):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        found = re.search(what, console(client, name, group))
        if found:
            return found
        time.sleep(1)
    raise AssertionError(f"no {what!r} on the console of {name}:\n{console(client, name, group)[-2000:]}")


def launch(client, name, disk, group="prod", location="westeurope"):
    return judged(client.virtual_machines.begin_create_or_update(group, name, {
        "location": location, "tags": {"drill": "1"}, "properties": {
            "hardwareProfile": {"vmSize": "Standard_B1s"},
            "storageProfile": {"osDisk": {"createOption": "Attach", "osType": "Linux", "managedDisk": {"id": disk}}},
            "networkProfile": {"networkInterfaces": [{"id": CARD}]},
            "diagnosticsProfile": {"bootDiagnostics": {"enabled": True}},
        }}).result())


def refused(call, *arguments):
    try:
        call(*arguments)
    except HttpResponseError as why:
        assert why.status_code == 409, why
        return
    raise AssertionError("not refused")


def main():
    with Sim("--calm") as sim:
        client = compute(sim)
        parts, size = {}, os.path.getsize(os.path.join(GUEST, "tiny.raw"))
        with open(os.path.join(GUEST, "tiny.raw"), "rb") as file:
            for start in range(0, size, 4 * MIB):
                data = file.read(4 * MIB)
                if data.strip(b"\0"):
                    parts[start] = data
        disk = upload(client, "web", size, parts)
        assert judged(client.disks.get("prod", "web")).properties.disk_state == "Unattached"
        launch(client, "web", disk.id)
        until(client, "web", "REPLICATE-READY")
        print(f"uploaded {len(parts) * 4} of {size // MIB} MiB; the machine boots: UEFI, SCSI", flush=True)
        assert client.disks.get("prod", "web").properties.disk_state == "Attached"
        refused(client.disks.begin_grant_access, "prod", "web", {"access": "Read", "durationInSeconds": 60})
        refused(client.disks.begin_delete, "prod", "web")
        one = snapshot(client, "one", disk.id)
        time.sleep(2)
        two = snapshot(client, "two", disk.id)
        sas = [client.snapshots.begin_grant_access("prod", name, {"access": "Read", "durationInSeconds": 600}).result().access_sas for name in ("one", "two")]
        pages, _ = blob(sas[1]).get_page_range_diff_for_managed_disk(sas[0])
        moved = sum(it["end"] + 1 - it["start"] for it in pages)
        assert 0 < moved < size // 20, moved
        print(f"captured while it writes: {moved >> 10} KiB changed between two snapshots", flush=True)
        copy = client.disks.begin_create_or_update("prod", "copy", {
            "location": "westeurope", "properties": {
                "creationData": {"createOption": "Copy", "sourceResourceId": two.id}, "hyperVGeneration": "V1"}}).result()
        # another region makes a machine of it, through a gallery
        client.gallery_images.begin_create_or_update("prod", "replicas", "web", {"location": "westeurope", "properties": {
            "osType": "Linux", "osState": "Specialized", "hyperVGeneration": "V2", "identifier": {"publisher": "p", "offer": "o", "sku": "s"}}}).result()
        version = client.gallery_image_versions.begin_create_or_update("prod", "replicas", "web", "1.0.0", {"location": "westeurope", "properties": {
            "publishingProfile": {"targetRegions": [{"name": "westeurope"}, {"name": "northeurope"}]},
            "storageProfile": {"osDiskImage": {"source": {"id": two.id}}},
            "safetyProfile": {"allowDeletionOfReplicatedLocations": True}}}).result()
        far = client.disks.begin_create_or_update("dr", "far", {"location": "northeurope", "properties": {
            "creationData": {"createOption": "FromImage", "galleryImageReference": {"id": version.id}}}}).result()
        client.virtual_machines.begin_power_off("prod", "web", skip_shutdown=True).result()
        states = [it.code for it in client.virtual_machines.instance_view("prod", "web").statuses]
        assert "PowerState/stopped" in states, states
        launch(client, "drill", copy.id)
        found = until(client, "drill", r"REPLICATE-READY boots=(\d+) seq=(\d+)")
        assert int(found[2]) >= 1
        print(f"its copy boots by BIOS: {found[0]}", flush=True)
        launch(client, "far", far.id, "dr", "northeurope")
        found = until(client, "far", r"REPLICATE-READY boots=(\d+) seq=(\d+)", group="dr")
        print(f"and a version of it in another region: {found[0]}", flush=True)
        client.virtual_machines.begin_delete("dr", "far").result()
        client.disks.begin_delete("dr", "far").result()
        client.gallery_image_versions.begin_delete("prod", "replicas", "web", "1.0.0").result()
        client.gallery_images.begin_delete("prod", "replicas", "web").result()
        for name in ("web", "drill"):
            client.virtual_machines.begin_delete("prod", name).result()
        for name in ("one", "two"):
            client.snapshots.begin_revoke_access("prod", name).result()
            client.snapshots.begin_delete("prod", name).result()
        for name in ("web", "copy"):
            client.disks.begin_delete("prod", name).result()
        state = sim.control("GET", "state")
        assert state["azure"] == [] and state["blocks"]["held"] == 0, state
        assert one.name == "one"
        sim.end()


main()
