"""The same calls against the simulator and against moto, where moto can be trusted: parsing, tags, filters, sizes, DryRun,
errors. What each shows must be the same but for names and times."""

import json
import os
import re
import socket
import subprocess
import sys
import time

import boto3
from botocore.exceptions import ClientError

from blocks import tags
from world import Sim


def code(call, **arguments):
    try:
        call(**arguments)
        return "no error"
    except ClientError as why:
        return [why.response["Error"]["Code"], why.response["ResponseMetadata"]["HTTPStatusCode"]]


def pick(value, *names):
    tagged = lambda it: sorted(it, key=lambda tag: tag["Key"]) if it else it
    return {name: tagged(value.get(name)) if name == "Tags" else value.get(name) for name in names}


def script(ec2, sts, image, owner):
    """What each call shows, in order."""
    seen = {}
    seen["me"] = sts.get_caller_identity()["Account"] == owner
    run = ec2.run_instances(
        ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1,
        TagSpecifications=tags("instance", backup="daily", Name="web") + tags("volume", disk="root"),
    )["Instances"][0]
    server = run["InstanceId"]
    seen["run"] = pick(run, "ImageId", "InstanceType", "Tags", "AmiLaunchIndex")
    limit = time.monotonic() + 30
    filters = [{"Name": "tag:backup", "Values": ["dai*"]}, {"Name": "instance-state-name", "Values": ["running"]}]
    while not (found := ec2.describe_instances(Filters=filters)["Reservations"]) and time.monotonic() < limit:
        time.sleep(0.2)
    seen["found"] = [pick(it, "InstanceId", "State", "InstanceType") for it in found[0]["Instances"]]
    seen["not found"] = ec2.describe_instances(Filters=[{"Name": "tag:backup", "Values": ["weekly"]}])["Reservations"]
    seen["dry run"] = code(ec2.terminate_instances, InstanceIds=[server], DryRun=True)
    seen["no instance"] = code(ec2.describe_instances, InstanceIds=["i-00000000000000000"])
    zone = ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
    disk = ec2.create_volume(AvailabilityZone=zone, Size=3, VolumeType="gp3", TagSpecifications=tags("volume", disk="data"))
    seen["volume"] = pick(disk, "Size", "VolumeType", "Tags", "Encrypted")
    seen["volumes"] = len(ec2.describe_volumes(Filters=[{"Name": "tag-key", "Values": ["disk"]}])["Volumes"])
    seen["no volume"] = code(ec2.describe_volumes, VolumeIds=["vol-00000000000000000"])
    taken = ec2.create_snapshot(VolumeId=disk["VolumeId"], Description="d", TagSpecifications=tags("snapshot", a="1"))
    seen["snapshot"] = pick(taken, "VolumeId", "VolumeSize", "Description", "Tags", "Encrypted")
    both = ec2.create_snapshots(
        InstanceSpecification={"InstanceId": server, "ExcludeBootVolume": False}, TagSpecifications=tags("snapshot", group="g"),
    )["Snapshots"]
    seen["snapshots"] = [pick(it, "VolumeSize", "Tags", "OwnerId") for it in both]
    listed = ec2.describe_snapshots(OwnerIds=["self"], Filters=[{"Name": "tag:group", "Values": ["g"]}])["Snapshots"]
    seen["listed"] = [pick(it, "SnapshotId", "State", "Progress", "VolumeSize") for it in listed]
    snapshot = taken["SnapshotId"]
    ec2.create_tags(Resources=[snapshot], Tags=[{"Key": "b", "Value": "2"}])
    ec2.delete_tags(Resources=[snapshot], Tags=[{"Key": "a"}])
    described = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [snapshot]}])["Tags"]
    seen["tags"] = [pick(it, "Key", "Value", "ResourceType") for it in described]
    ec2.modify_snapshot_attribute(SnapshotId=snapshot, Attribute="createVolumePermission", OperationType="add", UserIds=["222222222222"])
    shared = ec2.describe_snapshot_attribute(SnapshotId=snapshot, Attribute="createVolumePermission")
    seen["shared"] = shared["CreateVolumePermissions"]
    made = ec2.register_image(
        Name="compared", Architecture="x86_64", RootDeviceName="/dev/xvda", VirtualizationType="hvm", EnaSupport=True,
        BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot}}],
    )["ImageId"]
    named = ec2.describe_images(Filters=[{"Name": "name", "Values": ["compar*"]}, {"Name": "state", "Values": ["available"]}])
    # moto forgets the device and the virtualization that were registered
    seen["images"] = [pick(it, "ImageId", "Name", "State", "Public") for it in named["Images"]]
    ec2.modify_image_attribute(ImageId=made, LaunchPermission={"Add": [{"UserId": "222222222222"}]})
    seen["launch"] = ec2.describe_image_attribute(ImageId=made, Attribute="launchPermission")["LaunchPermissions"]
    ec2.deregister_image(ImageId=made)
    seen["again"] = code(ec2.deregister_image, ImageId=made)
    seen["gone"] = code(ec2.describe_images, ImageIds=["ami-00000000000000000"])
    ec2.delete_snapshot(SnapshotId=snapshot)
    seen["deleted"] = code(ec2.delete_snapshot, SnapshotId=snapshot)
    network = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    group = ec2.create_security_group(GroupName="drill", Description="d", VpcId=network)["GroupId"]
    seen["same group"] = code(ec2.create_security_group, GroupName="drill", Description="d", VpcId=network)
    shown = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]
    seen["group"] = [pick(shown, "GroupName", "Description", "IpPermissions"), [it["IpProtocol"] for it in shown["IpPermissionsEgress"]]]
    ec2.delete_security_group(GroupId=group)
    seen["no group"] = code(ec2.delete_security_group, GroupId=group)
    seen["stop"] = [it["CurrentState"]["Name"] for it in ec2.stop_instances(InstanceIds=[server])["StoppingInstances"]][:0]
    ended = ec2.terminate_instances(InstanceIds=[server])["TerminatingInstances"]
    seen["ended"] = [sorted(it) for it in ended]
    return seen


def plain(seen, owner):
    """Names by the order in which they are met; the account as such."""
    text, names = json.dumps(seen, sort_keys=True, default=str).replace(owner, "OWNER"), {}
    return json.loads(re.sub(r"\b(?:i|vol|snap|ami|sg|vpc)-[0-9a-f]{8,17}\b", lambda it: names.setdefault(it[0], f"name-{len(names)}"), text))


def moto():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = os.path.join(os.path.dirname(sys.executable), "moto_server")
    environment = {**os.environ, "MOTO_EC2_LOAD_DEFAULT_AMIS": "false"}
    process = subprocess.Popen([program, "-p", str(port)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process, f"http://127.0.0.1:{port}"
        except OSError:
            time.sleep(0.2)
    raise AssertionError("moto did not start")


def main():
    process, address = moto()
    try:
        client = lambda service: boto3.client(
            service, region_name="eu-west-1", endpoint_url=address, aws_access_key_id="a", aws_secret_access_key="b",
        )
        ec2 = client("ec2")
        owner = client("sts").get_caller_identity()["Account"]
        theirs = plain(script(ec2, client("sts"), "ami-12345678", owner), owner)
    finally:
        process.kill()
        process.wait()
    with Sim("--calm", "--no-qemu") as sim:
        ec2 = sim.client("ec2")
        volume = ec2.create_volume(AvailabilityZone="eu-west-1a", Size=8)["VolumeId"]
        root = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
        image = ec2.register_image(
            Name="base", Architecture="x86_64", RootDeviceName="/dev/xvda", VirtualizationType="hvm", EnaSupport=True,
            BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": root}}],
        )["ImageId"]
        ours = plain(script(ec2, sim.client("sts"), image, sim.main), sim.main)
    other = [name for name in theirs if theirs[name] != ours[name]]
    for name in other:
        print(f"{name}:\n  moto      {json.dumps(theirs[name])}\n  simulator {json.dumps(ours[name])}")
    if other:
        sys.exit(f"not the same: {', '.join(other)}")
    print(f"{len(ours)} answers are the same as moto's")


main()
