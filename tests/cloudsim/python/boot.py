"""A real guest: captured while it writes, made an image, launched by UEFI, given a disk, killed with the simulator."""

import os
import re
import struct
import subprocess
import sys
import time

from blocks import blocks_of, tags
from world import BLOCK, Sim

GUEST = sys.argv[1]
PATH = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}


def console(ec2, instance):
    # absent until the guest has said something; boto3 has decoded it
    return ec2.get_console_output(InstanceId=instance, Latest=True).get("Output", "")


def until(ec2, instance, what, seconds=400):
    """Waits for a line on the console; generous, for the machine may be loaded."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        found = re.search(what, console(ec2, instance))
        if found:
            return found
        time.sleep(1)
    raise AssertionError(f"no {what!r} on the console of {instance}:\n{console(ec2, instance)[-2000:]}")


def raw(ebs, snapshot, path, size):
    with open(path, "wb") as file:
        file.truncate(size)
        for index, data in blocks_of(ebs, snapshot).items():
            file.seek(index * BLOCK)
            file.write(data)
    return path


def script(ssm, instance, text):
    """What a script says that Run Command runs in the guest."""
    run = {"commands": [text], "executionTimeout": ["120"]}
    sent = ssm.send_command(InstanceIds=[instance], DocumentName="AWS-RunShellScript", Parameters=run)["Command"]["CommandId"]
    limit = time.monotonic() + 300
    while (done := ssm.get_command_invocation(CommandId=sent, InstanceId=instance))["Status"] in ("Pending", "InProgress"):
        assert time.monotonic() < limit, done
        time.sleep(0.2)
    assert done["Status"] == "Success", done
    return done["StandardOutputContent"]


def seq(disk, path, work, partition=None):
    """A number that the guest wrote, read from its file system after the journal was replayed."""
    part = os.path.join(work, "part")
    start, size = 0, os.path.getsize(disk)
    if partition:
        with open(disk, "rb") as file:
            file.seek(1024 + (partition - 1) * 128 + 32)
            first, last = struct.unpack("<QQ", file.read(16))
        start, size = first * 512, (last - first + 1) * 512
    with open(disk, "rb") as source, open(part, "wb") as target:
        source.seek(start)
        target.write(source.read(size))
    subprocess.run(["e2fsck", "-fy", part], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=PATH)
    # a first order whose name no journal has yet is no order
    return int(subprocess.run(["debugfs", "-R", f"cat {path}", part], capture_output=True, text=True, env=PATH).stdout or 0)


def main():
    with Sim("--calm") as sim:
        assert sim.greeting["boots"] == "instances boot in QEMU"
        work = sim.folder.name
        second = os.path.join(work, "second.raw")
        subprocess.run(["mke2fs", "-q", "-t", "ext4", second, "64M"], check=True, env=PATH)
        ec2, ebs = sim.client("ec2"), sim.client("ebs")
        server = sim.server([os.path.join(GUEST, "tiny.raw"), second])["instance"]
        until(ec2, server, "REPLICATE-READY boots=")
        print("the server boots: BIOS, NVMe", flush=True)
        for _ in range(3):
            made = ec2.create_snapshots(InstanceSpecification={"InstanceId": server})["Snapshots"]
            size = os.path.getsize(os.path.join(GUEST, "tiny.raw"))
            one = seq(raw(ebs, made[0]["SnapshotId"], os.path.join(work, "one"), size), "/data/seq", work, partition=3)
            two = seq(raw(ebs, made[1]["SnapshotId"], os.path.join(work, "two"), 64 << 20), "/seq", work)
            assert one - two in (0, 1), f"no instant: {one} and {two}"
            print(f"captured while it writes: order {one} on the first disk, {two} on the second", flush=True)
        assert one > 0, "nothing was written"
        ssm = sim.client("ssm")
        thaw = "sleep 6; echo thawed > /run/thawed; fsfreeze --unfreeze /"
        script(ssm, server, f"setsid sh -c '{thaw}' < /dev/null > /dev/null 2>&1 & fsfreeze --freeze /")
        # an answer that came earlier would have come from a frozen root file system
        assert script(ssm, server, "cat /run/thawed") == "thawed\n"
        print("scripts run in the guest, and are not answered while its root is frozen", flush=True)
        image = ec2.register_image(
            Name="captured", RootDeviceName="/dev/xvda", Architecture="x86_64", VirtualizationType="hvm", EnaSupport=True,
            BootMode="uefi", BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": made[0]["SnapshotId"]}}],
        )["ImageId"]
        run = ec2.run_instances(ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1, TagSpecifications=tags("instance", drill="1"))
        drill = run["Instances"][0]["InstanceId"]
        ec2.terminate_instances(InstanceIds=[server])
        found = until(ec2, drill, r"REPLICATE-READY boots=(\d+) seq=(\d+)")
        assert int(found[2]) >= one, found[0]
        print(f"the image boots by UEFI and goes on where it was captured: {found[0]}", flush=True)
        disk = ec2.create_volume(AvailabilityZone=run["Instances"][0]["Placement"]["AvailabilityZone"], Size=1)["VolumeId"]
        ec2.attach_volume(VolumeId=disk, InstanceId=drill, Device="/dev/sdf")
        # as in a power cut: the machine dies with its host, and boots again with it
        sim.end(kill=True)
        sim.start()
        ec2 = sim.client("ec2")
        again = until(ec2, drill, r"REPLICATE-READY boots=(\d+) seq=(\d+)")
        assert int(again[2]) >= int(found[2]), again[0]
        print(f"it boots again after the simulator was killed: {again[0]}", flush=True)
        ec2.stop_instances(InstanceIds=[drill], Force=True)
        state = ec2.describe_instances(InstanceIds=[drill])["Reservations"][0]["Instances"][0]["State"]["Name"]
        assert state == "stopped", state
        ec2.terminate_instances(InstanceIds=[drill])
        sim.end()
    print("the end")


main()
