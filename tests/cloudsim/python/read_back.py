"""Reads the newest image of an account back and compares it with a raw file: a client that knows nothing of who wrote it.

read_back.py EC2 EBS REGION FILE, with the keys in the environment
"""

import sys

import boto3
from blocks import blocks_of
from world import BLOCK

ec2_at, ebs_at, region, path = sys.argv[1:]
ec2 = boto3.client("ec2", region_name=region, endpoint_url=ec2_at)
ebs = boto3.client("ebs", region_name=region, endpoint_url=ebs_at)

images = ec2.describe_images(Owners=["self"])["Images"]
image = max(images, key=lambda it: it["CreationDate"])
assert image["State"] == "available", image
root = next(it for it in image["BlockDeviceMappings"] if it["DeviceName"] == image["RootDeviceName"])
snapshot = root["Ebs"]["SnapshotId"]
assert ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"] == "completed"

there = blocks_of(ebs, snapshot)
with open(path, "rb") as file:
    wanted = file.read()
wrong = []
for at in range(0, len(wanted), BLOCK):
    block = wanted[at : at + BLOCK].ljust(BLOCK, b"\0")
    # what a plain snapshot does not list is zero
    if there.pop(at // BLOCK, bytes(BLOCK)) != block:
        wrong.append(at // BLOCK)
assert not wrong, f"{image['ImageId']}: blocks {wrong} are not the disk's"
assert not any(any(block) for block in there.values()), "there is data behind the disk's end"
print(f"{image['ImageId']}: {len(wanted)} bytes read back from {snapshot}, all are the disk's ({len(images)} images)")
