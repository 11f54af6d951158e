"""Every kind of fault, seen from the client's side, and logged."""

import sys
import time

from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError, ResponseStreamingError
from urllib3.exceptions import IncompleteRead, ProtocolError

from blocks import blocks_of, digest, write
from world import BLOCK, Sim


def lost(call, **arguments):
    """The call ends without an answer."""
    try:
        call(**arguments)
    except (ConnectionClosedError, ReadTimeoutError, ResponseStreamingError, IncompleteRead, ProtocolError):
        return
    raise AssertionError("an answer came through")


def status(sim, ec2, ebs):
    sim.rule("DescribeTags", "status", status=503, code="Unavailable", retry_after=7, times=1)
    try:
        ec2.describe_tags()
        raise AssertionError("no 503")
    except ClientError as why:
        assert why.response["Error"]["Code"] == "Unavailable", why.response
        assert why.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "7", why.response
    ec2.describe_tags()
    sim.rule("StartSnapshot", "status", status=500, nth=2)
    write(ebs, {})
    try:
        write(ebs, {})
        raise AssertionError("no 500")
    except ClientError as why:
        assert why.response["Error"]["Code"] == "InternalServerException", why.response
    write(ebs, {})


def delay(sim, ec2, ebs):
    sim.rule("DescribeTags", "delay", seconds=1.5, times=1)
    began = time.monotonic()
    ec2.describe_tags()
    assert time.monotonic() - began >= 1.5


def cut(sim, ec2, ebs):
    made = write(ebs, {0: b"\5" * BLOCK})
    token = ebs.list_snapshot_blocks(SnapshotId=made)["Blocks"][0]["BlockToken"]
    read = lambda: ebs.get_snapshot_block(SnapshotId=made, BlockIndex=0, BlockToken=token)["BlockData"].read()
    for kind, more in (("reset", {}), ("reset", {"after": 1000}), ("truncate", {"after": 300_000}), ("truncate", {"after": 0})):
        sim.rule("GetSnapshotBlock", kind, about=made, times=1, **more)
        lost(read)
        assert read() == b"\5" * BLOCK


def flip(sim, ec2, ebs):
    made = write(ebs, {0: b"\5" * BLOCK})
    block = ebs.list_snapshot_blocks(SnapshotId=made)["Blocks"][0]
    read = lambda: ebs.get_snapshot_block(SnapshotId=made, BlockIndex=0, BlockToken=block["BlockToken"])
    sim.rule("GetSnapshotBlock", "flip", byte=4711, bit=3, times=1)
    answer = read()
    data = answer["BlockData"].read()
    wrong = [index for index, byte in enumerate(data) if byte != 5]
    assert wrong == [4711] and data[4711] == 5 ^ 8 and digest(data) != answer["Checksum"]
    assert read()["BlockData"].read() == b"\5" * BLOCK
    sim.rule("PutSnapshotBlock", "flip", byte=9, request=True, times=1)
    try:
        write(ebs, {0: b"\6" * BLOCK})
        raise AssertionError("a damaged block was taken")
    except ClientError as why:
        assert why.response["Error"]["Code"] in ("InvalidSignatureException", "ValidationException"), why.response


def drop(sim, ec2, ebs):
    """The call took effect, and nobody was told."""
    sim.rule("CreateSecurityGroup", "drop", times=1)
    make = lambda: ec2.create_security_group(GroupName="drill", Description="d")
    lost(make)
    try:
        make()
        raise AssertionError("it had not taken effect")
    except ClientError as why:
        assert why.response["Error"]["Code"] == "InvalidGroup.Duplicate", why.response
    assert len(ec2.describe_security_groups(GroupNames=["drill"])["SecurityGroups"]) == 1


def twice(sim, ec2, ebs):
    own = lambda: len(ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"])
    before = own()
    sim.rule("StartSnapshot", "twice", times=1)
    ebs.start_snapshot(VolumeSize=1, ClientToken="once")
    assert own() == before + 1, "with a token it is one"
    volume = ec2.create_volume(AvailabilityZone="eu-west-1a", Size=1)["VolumeId"]
    sim.rule("CreateSnapshot", "twice", times=1)
    ec2.create_snapshot(VolumeId=volume)
    assert own() == before + 3, "where there is no token there are two"


def stale(sim, ec2, ebs):
    groups = lambda: len(ec2.describe_security_groups(Filters=[{"Name": "description", "Values": ["stale"]}])["SecurityGroups"])
    assert groups() == 0
    ec2.create_security_group(GroupName="stale", Description="stale")
    sim.rule("DescribeSecurityGroups", "stale", times=1)
    assert groups() == 0, "the answer of the last time"
    assert groups() == 1


def storm(sim, ec2, ebs):
    """One call in five fails; a client that tries again gets through, and what it meets is the same each time."""
    sim.rule("*", "status", status=503, probability=0.2, seed=11)
    client = sim.client("ebs", retries=12)
    made = write(client, {index: bytes([index + 1]) * BLOCK for index in range(10)}, ClientToken="storm")
    assert {index: data[0] for index, data in blocks_of(client, made).items()} == {index: index + 1 for index in range(10)}
    assert len([it for it in sim.control("GET", "hits") if it["fault"]["kind"] == "status"]) > 0


KINDS = [status, delay, cut, flip, drop, twice, stale, storm]


def main():
    failed = []
    with Sim("--calm", "--no-qemu") as sim:
        for kind in KINDS:
            sim.control("DELETE", "rules")
            hits = len(sim.control("GET", "hits"))
            try:
                kind(sim, sim.client("ec2"), sim.client("ebs"))
                fired = sim.control("GET", f"hits?skip={hits}")
                assert fired and all(it["operation"] and it["fault"]["kind"] for it in fired), "nothing was logged"
                assert len(fired) == sum(rule["hits"] for rule in sim.control("GET", "rules"))
                print(f"ok   {kind.__name__:8} {len(fired)} hits", flush=True)
            except (AssertionError, ClientError) as why:
                failed.append(kind.__name__)
                print(f"FAIL {kind.__name__}: {why}", flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


main()
