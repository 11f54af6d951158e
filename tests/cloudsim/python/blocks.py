"""Snapshots written and read block by block."""

import base64
import hashlib

from world import BLOCK


def digest(data):
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def blocks_of(ebs, snapshot):
    """Everything that a snapshot has, by index; the checksums are checked."""
    tokens, page = {}, {}
    while True:
        answer = ebs.list_snapshot_blocks(SnapshotId=snapshot, MaxResults=100, **page)
        tokens.update({it["BlockIndex"]: it["BlockToken"] for it in answer["Blocks"]})
        if "NextToken" not in answer:
            break
        page = {"NextToken": answer["NextToken"]}
    out = {}
    for index, token in tokens.items():
        block = ebs.get_snapshot_block(SnapshotId=snapshot, BlockIndex=index, BlockToken=token)
        data = block["BlockData"].read()
        assert digest(data) == block["Checksum"] and len(data) == BLOCK, index
        out[index] = data
    return out


def write(ebs, blocks, **start):
    """A snapshot of the given blocks."""
    made = ebs.start_snapshot(VolumeSize=1, Timeout=60, **start)["SnapshotId"]
    for index, data in blocks.items():
        ebs.put_snapshot_block(
            SnapshotId=made, BlockIndex=index, BlockData=data, DataLength=len(data), Progress=50,
            Checksum=digest(data), ChecksumAlgorithm="SHA256",
        )
    whole = hashlib.sha256(b"".join(hashlib.sha256(blocks[i]).digest() for i in sorted(blocks))).digest()
    ebs.complete_snapshot(
        SnapshotId=made, ChangedBlocksCount=len(blocks), Checksum=base64.b64encode(whole).decode(),
        ChecksumAlgorithm="SHA256", ChecksumAggregationMethod="LINEAR",
    )
    return made


def tags(kind, **pairs):
    return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in pairs.items()]}]
