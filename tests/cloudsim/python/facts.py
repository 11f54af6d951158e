"""Every ugly fact of the provider, one function each: a client that does not know it must fail here."""

import base64
import concurrent.futures
import hashlib
import sys
import time

from botocore.exceptions import ClientError

from blocks import blocks_of, digest, tags, write
from world import BLOCK, Sim


def refused(code, call, reason=None, **arguments):
    try:
        call(**arguments)
    except ClientError as why:
        assert why.response["Error"]["Code"] == code, f"{why.response['Error']} instead of {code}"
        assert reason is None or why.response.get("Reason") == reason, why.response
        return why.response
    raise AssertionError(f"not refused with {code}")


def open_snapshot(ebs, **more):
    return ebs.start_snapshot(VolumeSize=1, **more)["SnapshotId"]


def put(ebs, snapshot, index, data=b"\1" * BLOCK, checksum=None, **more):
    return ebs.put_snapshot_block(**{
        "SnapshotId": snapshot, "BlockIndex": index, "BlockData": data, "DataLength": len(data), "Progress": 0,
        "Checksum": checksum or digest(data), "ChecksumAlgorithm": "SHA256", **more,
    })


def register(ec2, snapshot, name, **more):
    return ec2.register_image(**{
        "Name": name, "RootDeviceName": "/dev/xvda", "VirtualizationType": "hvm", "EnaSupport": True, "Architecture": "x86_64",
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot}}], **more,
    })["ImageId"]


def signatures(sim):
    """Keys, secrets, tokens, regions, bodies and clocks are really checked."""
    assert sim.client("ec2").describe_regions()["Regions"]
    refused("AuthFailure", sim.client("ec2", secret="x" * 40).describe_regions)
    nobody = {"AccessKeyId": "AKIANOBODY", "SecretAccessKey": "x" * 40}
    refused("AuthFailure", sim.client("ec2", credentials=nobody).describe_regions)
    refused("UnrecognizedClientException", sim.client("ebs", credentials=nobody).list_snapshot_blocks, SnapshotId="snap-1")
    refused("InvalidClientTokenId", sim.client("sts", credentials=nobody).get_caller_identity)
    refused("SignatureDoesNotMatch", sim.client("sts", secret="x" * 40).get_caller_identity)
    elsewhere = sim.greeting["regions"]["us-east-1"]["ec2"]
    refused("AuthFailure", sim.client("ec2", "eu-west-1", endpoint=elsewhere).describe_regions)
    for skew, code, direct in ((400, "RequestExpired", "InvalidSignatureException"), (-400, "AuthFailure", "InvalidSignatureException")):
        sim.control("POST", "clock", {"skew": skew})
        refused(code, sim.client("ec2").describe_regions)
        refused(direct, sim.client("ebs").list_snapshot_blocks, SnapshotId="snap-1")
    sim.control("POST", "clock", {"skew": 0})
    role = sim.accounts[sim.other]["roles"][0]
    session = sim.client("sts").assume_role(RoleArn=role, RoleSessionName="x1", DurationSeconds=900)["Credentials"]
    assert sim.client("ec2", credentials=session).describe_regions()["Regions"]
    refused("AuthFailure", sim.client("ec2", credentials={**session, "SessionToken": "wrong"}).describe_regions)
    sim.advance(901)
    refused("RequestExpired", sim.client("ec2", credentials=session).describe_regions)
    refused("ExpiredTokenException", sim.client("ebs", credentials=session).list_snapshot_blocks, SnapshotId="snap-1")
    refused("AccessDenied", sim.client("sts").assume_role, RoleArn=role + "x", RoleSessionName="x1")
    sim.rule("DescribeRegions", "flip", byte=9, request=True, times=1)
    refused("AuthFailure", sim.client("ec2").describe_regions)


def invisible(sim):
    """Two minutes of not being found, while the name is taken and the direct API sees it."""
    ec2, ebs = sim.client("ec2"), sim.client("ebs")
    made = write(ebs, {0: b"\1" * BLOCK}, Tags=[{"Key": "run", "Value": "1"}])
    refused("InvalidSnapshot.NotFound", ec2.describe_snapshots, SnapshotIds=[made])
    refused("InvalidSnapshot.NotFound", ec2.delete_snapshot, SnapshotId=made)
    by_tag = [{"Name": "tag:run", "Values": ["1"]}]
    assert ec2.describe_snapshots(Filters=by_tag)["Snapshots"] == []
    refused("InvalidSnapshot.NotFound", register, None, ec2=ec2, snapshot=made, name="early")
    sim.advance(119)
    refused("InvalidSnapshot.NotFound", ec2.describe_snapshots, SnapshotIds=[made])
    sim.advance(2)
    assert ec2.describe_snapshots(Filters=by_tag)["Snapshots"][0]["SnapshotId"] == made
    image = register(ec2, made, "early")
    refused("InvalidAMIID.NotFound", ec2.describe_images, ImageIds=[image])
    refused("InvalidAMIName.Duplicate", register, None, ec2=ec2, snapshot=made, name="early")
    sim.advance(121)
    assert ec2.describe_images(ImageIds=[image])["Images"][0]["State"] == "available"


def pending(sim):
    """States take their time: a snapshot, a copy, a launch."""
    sim.settings(weather={"invisible_seconds": 0})
    ec2, ebs = sim.client("ec2"), sim.client("ebs")
    made = write(ebs, {0: b"\1" * BLOCK})
    assert ec2.describe_snapshots(SnapshotIds=[made])["Snapshots"][0]["State"] == "pending"
    refused("ValidationException", ebs.list_snapshot_blocks, "INVALID_SNAPSHOT_ID", SnapshotId=made)
    refused("IncorrectState", register, ec2=ec2, snapshot=made, name="too early")
    sim.advance(31)
    image = register(ec2, made, "in time")
    away = sim.client("ec2", "us-east-1")
    refused("InvalidAMIID.Unavailable", away.copy_image, Name="c 1", SourceImageId=image, SourceRegion="eu-west-1")
    refused("InvalidAMIID.Unavailable", ec2.run_instances, ImageId=image, MinCount=1, MaxCount=1, InstanceType="t3.micro")
    sim.advance(61)
    copy = away.copy_image(Name="copy", SourceImageId=image, SourceRegion="eu-west-1")["ImageId"]
    shown = away.describe_images(ImageIds=[copy])["Images"][0]
    assert shown["State"] == "pending"
    part = away.describe_snapshots(SnapshotIds=[shown["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]])["Snapshots"][0]
    assert part["State"] == "pending" and part["Progress"] != "100%", part
    sim.advance(301)
    assert away.describe_images(ImageIds=[copy])["Images"][0]["State"] == "available"


def late_tags(sim):
    """What CreateTags changed is seen later; tags of the create call come with the thing."""
    ec2, ebs = sim.client("ec2"), sim.client("ebs")
    sim.settings(weather={"tags_seconds": 30})
    made = write(ebs, {}, Tags=[{"Key": "role", "Value": "scratch"}])
    ec2.create_tags(Resources=[made], Tags=[{"Key": "role", "Value": "replica"}])
    role = lambda: [it["Value"] for it in ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [made]}])["Tags"]]
    assert role() == ["scratch"]
    assert ec2.describe_snapshots(Filters=[{"Name": "tag:role", "Values": ["replica"]}])["Snapshots"] == []
    sim.advance(31)
    assert role() == ["replica"]


def tokens(sim):
    """A client token makes a repeated call find the first one's; other parameters are refused."""
    ec2, ebs = sim.client("ec2"), sim.client("ebs")
    first = open_snapshot(ebs, ClientToken="a")
    assert open_snapshot(ebs, ClientToken="a") == first
    refused("ConflictException", ebs.start_snapshot, VolumeSize=2, ClientToken="a")
    image = register(ec2, write(ebs, {0: b"\1" * BLOCK}), "source")
    run = dict(ImageId=image, MinCount=1, MaxCount=1, InstanceType="t3.micro", ClientToken="b")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: sim.client("ec2").run_instances(**run)["Instances"][0]["InstanceId"], range(4)))
    assert len(set(made)) == 1, made
    refused("IdempotentParameterMismatch", ec2.run_instances, **{**run, "MaxCount": 2})
    away = sim.client("ec2", "us-east-1")
    copy = dict(Name="copy", SourceImageId=image, SourceRegion="eu-west-1", ClientToken="c")
    assert away.copy_image(**copy) ["ImageId"] == away.copy_image(**copy)["ImageId"]
    refused("IdempotentParameterMismatch", away.copy_image, **{**copy, "Name": "other"})
    # CreateSnapshots, RegisterImage and CopySnapshot have none: a repeated call makes another, or is refused by its name
    refused("InvalidAMIName.Duplicate", register, ec2=ec2, snapshot=write(ebs, {}), name="source")


def pages(sim):
    """Empty pages with a token between the full ones, and limits of their size."""
    ec2, ebs = sim.client("ec2"), sim.client("ebs")
    sim.settings(weather={"empty_pages": True})
    for _ in range(11):
        write(ebs, {})
    sizes, token = [], {}
    while True:
        page = ec2.describe_snapshots(MaxResults=5, OwnerIds=["self"], **token)
        sizes.append(len(page["Snapshots"]))
        if "NextToken" not in page:
            break
        token = {"NextToken": page["NextToken"]}
    assert sizes == [5, 0, 5, 0, 1], sizes
    refused("InvalidParameterValue", ec2.describe_snapshots, MaxResults=4)
    refused("InvalidParameterCombination", ec2.describe_snapshots, MaxResults=5, SnapshotIds=["snap-00000000"])
    refused("InvalidParameterValue", ec2.describe_snapshots, NextToken="made up")
    refused("InvalidParameterValue", ec2.describe_snapshots, Filters=[{"Name": "no-such", "Values": ["x"]}])
    many = write(ebs, {index: b"\1" * BLOCK for index in range(150)})
    first = ebs.list_snapshot_blocks(SnapshotId=many, MaxResults=100)
    between = ebs.list_snapshot_blocks(SnapshotId=many, MaxResults=100, NextToken=first["NextToken"])
    assert (len(first["Blocks"]), between["Blocks"]) == (100, []), between
    # the token overrides the starting index
    last = ebs.list_snapshot_blocks(SnapshotId=many, MaxResults=100, NextToken=between["NextToken"], StartingBlockIndex=3)
    assert [it["BlockIndex"] for it in last["Blocks"]] == list(range(100, 150)) and "NextToken" not in last
    assert len(ebs.list_snapshot_blocks(SnapshotId=many, StartingBlockIndex=149)["Blocks"]) == 1
    sim.advance(3601)
    refused("ValidationException", ebs.list_snapshot_blocks, "INVALID_PAGE_TOKEN", SnapshotId=many, NextToken=first["NextToken"])


def blocks(sim):
    """What PutSnapshotBlock, CompleteSnapshot and GetSnapshotBlock hold a client to."""
    ebs = sim.client("ebs")
    made = open_snapshot(ebs)
    refused("ValidationException", put, "INVALID_BLOCK", ebs=ebs, snapshot=made, index=0, checksum=digest(b"other"))
    refused("ValidationException", put, "INVALID_BLOCK", ebs=ebs, snapshot=made, index=2048)
    refused("ValidationException", put, "INVALID_BLOCK", ebs=ebs, snapshot=made, index=0, data=b"\1" * 4096)
    put(ebs, made, 5)
    put(ebs, made, 5, b"\2" * BLOCK)
    put(ebs, made, 5, b"\2" * BLOCK)
    put(ebs, made, 9)
    done = dict(SnapshotId=made, ChangedBlocksCount=2)
    refused("ValidationException", ebs.complete_snapshot, "INVALID_PARAMETER_VALUE", **{**done, "ChangedBlocksCount": 4})
    method = dict(ChecksumAlgorithm="SHA256", ChecksumAggregationMethod="LINEAR")
    refused("ValidationException", ebs.complete_snapshot, "INVALID_BLOCK", **done, **method, Checksum=digest(b"x"))
    both = b"".join(hashlib.sha256(bytes([value]) * BLOCK).digest() for value in (2, 1))
    ebs.complete_snapshot(**done, **method, Checksum=base64.b64encode(hashlib.sha256(both).digest()).decode())
    refused("ValidationException", put, "INVALID_SNAPSHOT_ID", ebs=ebs, snapshot=made, index=1)
    refused("ValidationException", ebs.complete_snapshot, "INVALID_SNAPSHOT_ID", **done)
    assert {index: data[0] for index, data in blocks_of(ebs, made).items()} == {5: 2, 9: 1}
    token = ebs.list_snapshot_blocks(SnapshotId=made)["Blocks"][0]["BlockToken"]
    get = lambda **more: ebs.get_snapshot_block(**{"SnapshotId": made, "BlockIndex": 5, "BlockToken": token, **more})
    refused("ValidationException", get, "INVALID_BLOCK_TOKEN", BlockIndex=9)
    refused("ValidationException", get, "INVALID_BLOCK_TOKEN", BlockToken="made up")
    sim.advance(7 * 86400 + 1)
    refused("ValidationException", get, "INVALID_BLOCK_TOKEN")
    refused("ResourceNotFoundException", ebs.list_snapshot_blocks, "SNAPSHOT_NOT_FOUND", SnapshotId="snap-00000000000000000")
    theirs = sim.client("ebs", account=sim.other)
    refused("AccessDeniedException", theirs.list_snapshot_blocks, "UNAUTHORIZED_ACCOUNT", SnapshotId=made)
    late = open_snapshot(ebs, Timeout=10)
    sim.advance(599)
    put(ebs, late, 0)
    sim.advance(599)
    put(ebs, late, 1)
    sim.advance(601)
    refused("ValidationException", put, "WRITE_REQUEST_TIMEOUT", ebs=ebs, snapshot=late, index=2)
    assert sim.client("ec2").describe_snapshots(SnapshotIds=[late])["Snapshots"][0]["State"] == "error"


def changed(sim):
    """Changed blocks are the union; what a snapshot did not write and what is of another lineage."""
    ebs = sim.client("ebs")
    one = write(ebs, {0: b"\1" * BLOCK, 1: b"\1" * BLOCK})
    two = write(ebs, {1: b"\1" * BLOCK, 7: b"\0" * BLOCK}, ParentSnapshotId=one)
    diff = ebs.list_changed_blocks(FirstSnapshotId=one, SecondSnapshotId=two)["ChangedBlocks"]
    # block 1 was written again with the same bytes, and counts
    assert [(it["BlockIndex"], "FirstBlockToken" in it, "SecondBlockToken" in it) for it in diff] == [(1, True, True), (7, False, True)], diff
    back = ebs.list_changed_blocks(FirstSnapshotId=two, SecondSnapshotId=one)["ChangedBlocks"]
    assert [(it["BlockIndex"], "SecondBlockToken" in it) for it in back] == [(1, True), (7, False)], back
    assert len(ebs.list_changed_blocks(SecondSnapshotId=two)["ChangedBlocks"]) == 3
    other = write(ebs, {})
    refused("ValidationException", ebs.list_changed_blocks, "UNRELATED_SNAPSHOTS", FirstSnapshotId=one, SecondSnapshotId=other)
    refused("ValidationException", ebs.start_snapshot, VolumeSize=1, ParentSnapshotId=one, Encrypted=True)


def not_zero(sim):
    """Blocks that were not written are zero only in an unencrypted snapshot without a parent."""
    ec2, ebs = sim.client("ec2"), sim.client("ebs")
    plain = write(ebs, {1: b"\1" * BLOCK})
    child = write(ebs, {2: b"\1" * BLOCK}, ParentSnapshotId=plain)
    sealed = write(ebs, {1: b"\1" * BLOCK}, Encrypted=True)
    for snapshot, zero in ((plain, True), (child, False), (sealed, False)):
        volume = ec2.create_volume(AvailabilityZone="eu-west-1a", SnapshotId=snapshot)["VolumeId"]
        after = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
        listed = {it["BlockIndex"]: it["BlockToken"] for it in ebs.list_snapshot_blocks(SnapshotId=after)["Blocks"]}
        read = lambda index: ebs.get_snapshot_block(SnapshotId=after, BlockIndex=index, BlockToken=listed[index])["BlockData"].read()
        assert read(1) == b"\1" * BLOCK
        # a volume of zeroes has no such block
        assert zero == (0 not in listed), (snapshot, sorted(listed)[:3])
        assert zero or read(0) != b"\0" * BLOCK


def in_use(sim):
    """What is referred to is not deleted; what is protected or locked neither."""
    ec2, ebs = sim.client("ec2"), sim.client("ebs")
    snapshot = write(ebs, {0: b"\1" * BLOCK})
    image, second = register(ec2, snapshot, "one"), register(ec2, snapshot, "two")
    refused("InvalidSnapshot.InUse", ec2.delete_snapshot, SnapshotId=snapshot)
    ec2.enable_image_deregistration_protection(ImageId=image, WithCooldown=True)
    refused("OperationNotPermitted", ec2.deregister_image, ImageId=image)
    ec2.disable_image_deregistration_protection(ImageId=image)
    refused("OperationNotPermitted", ec2.deregister_image, ImageId=image)
    sim.advance(86401)
    kept = ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)["DeleteSnapshotResults"]
    assert kept[0]["ReturnCode"] == "skipped", kept
    refused("InvalidAMIID.Unavailable", ec2.deregister_image, ImageId=image)
    refused("InvalidAMIID.NotFound", ec2.describe_images, ImageIds=[image])
    ec2.deregister_image(ImageId=second)
    ec2.lock_snapshot(SnapshotId=snapshot, LockMode="compliance", LockDuration=1)
    refused("OperationNotPermitted", ec2.delete_snapshot, SnapshotId=snapshot)
    refused("OperationNotPermitted", ec2.unlock_snapshot, SnapshotId=snapshot)
    sim.advance(86401)
    ec2.delete_snapshot(SnapshotId=snapshot)
    refused("InvalidSnapshot.NotFound", ec2.delete_snapshot, SnapshotId=snapshot)


def copies(sim):
    """Five images and twenty snapshots at once; a key of another region is noticed afterwards."""
    ec2, ebs, away = sim.client("ec2"), sim.client("ebs"), sim.client("ec2", "us-east-1")
    snapshot = write(ebs, {0: b"\1" * BLOCK})
    image = register(ec2, snapshot, "source")
    sim.settings(weather={"copy_seconds": 300})
    copy = lambda number: away.copy_image(Name=f"copy {number}", SourceImageId=image, SourceRegion="eu-west-1")
    [copy(number) for number in range(5)]
    refused("ResourceLimitExceeded", copy, number=5)
    relay = lambda **more: away.copy_snapshot(SourceSnapshotId=snapshot, SourceRegion="eu-west-1", **more)
    [relay() for _ in range(20)]
    refused("ResourceLimitExceeded", relay)
    sim.advance(301)
    copy(5)
    made = relay(Encrypted=True, KmsKeyId="arn:aws:kms:eu-west-1:111111111111:key/x")["SnapshotId"]
    shown = away.describe_snapshots(SnapshotIds=[made])["Snapshots"][0]
    assert (shown["State"], shown["StateMessage"]) == ("error", "Given key ID is not accessible"), shown
    key = relay(Encrypted=True)["SnapshotId"]
    refused("OperationNotPermitted", away.modify_snapshot_attribute, SnapshotId=key, OperationType="add", UserIds=[sim.other])


def launches(sim):
    """What an image lacks is noticed at the launch; what a drill may not touch."""
    ec2, ebs = sim.client("ec2"), sim.client("ebs")
    snapshot = write(ebs, {0: b"\1" * BLOCK})
    run = lambda image, kind="t3.micro", **more: ec2.run_instances(ImageId=image, InstanceType=kind, MinCount=1, MaxCount=1, **more)
    plain = register(ec2, snapshot, "no ena", EnaSupport=False)
    refused("InvalidParameterCombination", run, image=plain)
    refused("InvalidParameterValue", run, image=register(ec2, snapshot, "arm", Architecture="arm64"))
    refused("InvalidParameterValue", register, ec2=ec2, snapshot=snapshot, name="para", VirtualizationType="paravirtual")
    refused("InvalidParameterCombination", register, ec2=ec2, snapshot=snapshot, name="tpm", TpmSupport="v2.0")
    refused("InvalidAMIName.Malformed", register, ec2=ec2, snapshot=snapshot, name="a*b")
    image = register(ec2, snapshot, "fine")
    refused("InvalidKeyPair.NotFound", run, image=image, KeyName="nobody")
    refused("InvalidGroup.NotFound", run, image=image, SecurityGroupIds=["sg-00000000000000000"])
    refused("DryRunOperation", run, image=image, DryRun=True)
    group = ec2.create_security_group(GroupName="drill", Description="d")["GroupId"]
    made = run(image, SecurityGroupIds=[group])["Instances"][0]["InstanceId"]
    refused("DependencyViolation", ec2.delete_security_group, GroupId=group)
    sim.settings(weather={"instance_seconds": 20})
    ec2.terminate_instances(InstanceIds=[made])
    state = lambda: ec2.describe_instances(InstanceIds=[made])["Reservations"][0]["Instances"][0]["State"]["Name"]
    assert state() == "shutting-down"
    sim.advance(21)
    assert state() == "terminated"
    sim.advance(3700)
    refused("InvalidInstanceID.NotFound", ec2.describe_instances, InstanceIds=[made])


def throttles(sim):
    """Token buckets of EC2 and of the direct API; too many at once."""
    sim.settings(limits={"read": [3, 0.01], "blocks_of_snapshot": [4, 0.001], "blocks": [6, 0.001]})
    ec2, ebs = sim.client("ec2"), sim.client("ebs")
    page = lambda: ec2.describe_tags(MaxResults=5)
    [page() for _ in range(3)]
    assert refused("RequestLimitExceeded", page)["ResponseMetadata"]["HTTPStatusCode"] == 503
    one, two = open_snapshot(ebs), open_snapshot(ebs)
    [put(ebs, one, number) for number in range(4)]
    refused("RequestThrottledException", put, "RESOURCE_LEVEL_THROTTLE", ebs=ebs, snapshot=one, index=4)
    [put(ebs, two, number) for number in range(2)]
    refused("RequestThrottledException", put, "ACCOUNT_THROTTLED", ebs=ebs, snapshot=two, index=2)
    sim.settings(limits={"parallel": 1, "blocks": [1e6, 1e6], "blocks_of_snapshot": [1e6, 1e6]})
    many = open_snapshot(ebs)
    codes = set()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        def crowd(number):
            try:
                put(sim.client("ebs"), many, number, bytes([number % 251]) * BLOCK)
            except ClientError as why:
                return why.response["ResponseMetadata"]["HTTPStatusCode"]
        until = time.monotonic() + 60
        while 503 not in codes and time.monotonic() < until:
            codes |= set(pool.map(crowd, range(64)))
    assert 503 in codes, codes


def rights(sim):
    """A policy document is obeyed, and what calls need is written down."""
    ec2, ebs = sim.client("ec2"), sim.client("ebs")
    deny = {"Statement": [{"Effect": "Deny", "Action": "ec2:DeleteSnapshot", "Resource": "*"}]}
    sim.control("PUT", "policies", deny)
    made = write(ebs, {})
    refused("UnauthorizedOperation", ec2.delete_snapshot, SnapshotId=made)
    sim.control("DELETE", "policies")
    ec2.delete_snapshot(SnapshotId=made)
    mine = {"Statement": [{"Effect": "Allow", "Action": "ec2:Describe*", "Resource": "*"}]}
    principal = f"principal=arn:aws:iam::{sim.main}:user/replicate"
    sim.control("PUT", f"policies?{principal}", mine)
    ec2.describe_tags()
    refused("AccessDeniedException", ebs.start_snapshot, VolumeSize=1)
    sim.control("DELETE", f"policies?{principal}")
    open_snapshot(ebs, Tags=[{"Key": "a", "Value": "b"}])
    needs = sim.control("GET", "calls")[-1]["needs"]
    # a session's policy is its role's
    role = sim.accounts[sim.other]["roles"][0]
    sim.control("PUT", f"policies?principal={role}", mine)
    session = sim.client("sts").assume_role(RoleArn=role, RoleSessionName="x1")["Credentials"]
    sim.client("ec2", credentials=session).describe_tags()
    refused("AccessDeniedException", sim.client("ebs", credentials=session).start_snapshot, VolumeSize=1)
    assert {it["action"] for it in needs} == {"ebs:StartSnapshot", "ec2:CreateTags"}, needs


def commands(sim):
    """Run Command: who has no agent is not sent to, what was just sent is not found, and unknown things are refused."""
    ssm, ec2 = sim.client("ssm"), sim.client("ec2")
    server = sim.server(sim.image([0]))["instance"]
    run = {"InstanceIds": [server], "DocumentName": "AWS-RunShellScript", "Parameters": {"commands": ["true"]}}
    assert ssm.describe_instance_information()["InstanceInformationList"] == []
    refused("InvalidInstanceId", ssm.send_command, **run)
    sim.control("PUT", "agents", {"instance": server, "code": 3, "stderr": "no\n", "platform": "Windows"})
    assert [it["PlatformType"] for it in ssm.describe_instance_information()["InstanceInformationList"]] == ["Windows"]
    sim.settings(weather={"command_seconds": 100})
    sent = ssm.send_command(**run)["Command"]
    assert sent["Status"] == "Pending", sent
    which = {"CommandId": sent["CommandId"], "InstanceId": server}
    refused("InvocationDoesNotExist", ssm.get_command_invocation, **which)
    sim.advance(101)
    limit = time.monotonic() + 60
    while (done := ssm.get_command_invocation(**which))["Status"] in ("Pending", "InProgress"):
        assert time.monotonic() < limit, done
    assert (done["Status"], done["ResponseCode"], done["StandardErrorContent"]) == ("Failed", 3, "no\n"), done
    refused("InvocationDoesNotExist", ssm.get_command_invocation, **{**which, "InstanceId": "i-00000000000000000"})
    refused("ValidationException", ssm.send_command, **run, MaxErrors="1")
    refused("InvalidDocument", ssm.send_command, **{**run, "DocumentName": "AWS-Other"})
    refused("UnrecognizedClientException", sim.client("ssm", credentials={"AccessKeyId": "AKIANOBODY", "SecretAccessKey": "x" * 40}).describe_instance_information)
    refused("InvalidSignatureException", sim.client("ssm", secret="x" * 40).describe_instance_information)
    sim.rule("SendCommand", "status", status=400, code="ThrottlingException", times=1)
    refused("ThrottlingException", ssm.send_command, **run)
    deny = {"Effect": "Deny", "Action": "ssm:SendCommand", "Resource": "arn:aws:ssm:*::document/*"}
    sim.control("PUT", "policies?principal=*", {"Statement": [deny]})
    refused("AccessDeniedException", ssm.send_command, **run)
    sim.control("DELETE", "policies?principal=*")
    ec2.stop_instances(InstanceIds=[server])
    refused("InvalidInstanceId", ssm.send_command, **run)


def restart(sim):
    """kill -9 at any time loses nothing that was answered."""
    ec2, ebs = sim.client("ec2"), sim.client("ebs")
    done = write(ebs, {0: b"\1" * BLOCK, 3: b"\3" * BLOCK})
    half = open_snapshot(ebs, ClientToken="half")
    put(ebs, half, 4, b"\4" * BLOCK)
    sim.advance(5000)
    before = ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    sim.end(kill=True)
    sim.start()
    ec2, ebs = sim.client("ec2"), sim.client("ebs")
    assert ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"] == before
    assert blocks_of(ebs, done) == {0: b"\1" * BLOCK, 3: b"\3" * BLOCK}
    assert open_snapshot(ebs, ClientToken="half") == half


FACTS = [signatures, invisible, pending, late_tags, tokens, pages, blocks, changed, not_zero, in_use, copies, launches, throttles, rights, commands, restart]
UGLY = {signatures, invisible, pending}


def main():
    failed = []
    for fact in FACTS:
        if len(sys.argv) > 1 and fact.__name__ not in sys.argv[1:]:
            continue
        calm = [] if fact in UGLY else ["--calm"]
        with Sim("--no-qemu", *calm) as sim:
            wide = [100000, 100000]
            limits = {"read": wide, "read_all": wide, "write": wide, "lists": wide, "starts": wide, "completes": wide}
            sim.settings(limits=limits)
            began = time.monotonic()
            try:
                fact(sim)
                print(f"ok   {fact.__name__:12} {time.monotonic() - began:5.1f} s  {fact.__doc__}", flush=True)
            except (AssertionError, ClientError) as why:
                failed.append(fact.__name__)
                print(f"FAIL {fact.__name__}: {why}", flush=True)
                if "-v" in sys.argv:
                    raise
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


main()
