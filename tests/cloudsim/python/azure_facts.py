"""The Azure half, driven by Microsoft's own Python SDKs: disks, snapshots, long-running operations, and page blobs behind a
SAS. What the models of the SDK do not know is a finding."""

import base64
import datetime
import hashlib
import json
import random
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request

from azure.core.exceptions import HttpResponseError

from azure_client import MIB, blob, compute, footer, judged, opened, refused, snapshot, token, upload
from world import Sim


def write(sim, client, disk, parts):
    """What a running server would do to its disk: a new disk of the snapshot, written through an upload is not the same
    family, so the simulator's own file is changed."""
    unique = client.disks.get("prod", disk).properties.unique_id
    with open(f"{sim.data}/azure/{unique}", "r+b") as file:
        for start, data in parts.items():
            file.seek(start)
            file.write(data)


def crc64(data):
    """The sum that page blobs are checked by: the polynomial is that of Microsoft's own SDKs."""
    sum = 0xFFFFFFFFFFFFFFFF
    for byte in data:
        sum ^= byte
        for _ in range(8):
            sum = sum >> 1 ^ (0x9A6C9329AC4BC9B5 if sum & 1 else 0)
    return sum ^ 0xFFFFFFFFFFFFFFFF


def disks(sim, client):
    """Upload, snapshot, read, compare: written and cleared ranges in one order."""
    data = random.Random(1).randbytes(MIB)
    disk = upload(client, "web", 64 * MIB, {0: data, 40 * MIB: data[:65536]})
    assert disk.properties.disk_state == "Unattached" and disk.properties.disk_size_bytes == 64 * MIB
    refused(409, "OperationNotAllowed", client.disks.begin_grant_access, "prod", "web", {"access": "Write", "durationInSeconds": 60})
    first = snapshot(client, "one", disk.id)
    write(sim, client, "web", {4096: b"\0" * 8192, 12288: b"\1" * 4096, 16384: b"\0" * 4096, 50 * MIB: b"\2" * 512})
    second = snapshot(client, "two", disk.id.upper())
    family = second.properties.incremental_snapshot_family_id
    assert family == first.properties.incremental_snapshot_family_id
    one, two = blob(opened(client, "one")), blob(opened(client, "two"))
    assert client.snapshots.get("prod", "one").properties.disk_state == "ActiveSAS"
    pages, cleared = two.get_page_ranges()
    assert pages[-1] == {"start": 64 * MIB, "end": 64 * MIB + 511} and cleared == [], pages
    whole = two.download_blob(offset=64 * MIB, length=512).readall()
    assert whole == two.download_blob(offset=64 * MIB).readall() and whole[:8] == b"conectix"
    pages, cleared = two.get_page_range_diff_for_managed_disk(one.url)
    assert pages == [{"start": 12288, "end": 16383}, {"start": 50 * MIB, "end": 50 * MIB + 4095}], pages
    assert cleared == [{"start": 4096, "end": 12287}, {"start": 16384, "end": 20479}], cleared
    # in the order of their places, which the SDK's lists lose
    request = urllib.request.Request(f"{two.url}&comp=pagelist", headers={"x-ms-previous-snapshot-url": one.url})
    text = urllib.request.urlopen(request).read().decode()
    order = [part[:1] for part in text.replace("<PageRange>", "|P").replace("<ClearRange>", "|C").split("|")[1:]]
    assert order == ["C", "P", "C", "P"], text
    # the service copies pages from one SAS into an upload
    client.disks.begin_create_or_update("prod", "copy", {
        "location": "westeurope", "properties": {"creationData": {"createOption": "Upload", "uploadSizeBytes": 64 * MIB + 512}}}).result()
    page = blob(client.disks.begin_grant_access("prod", "copy", {"access": "Write", "durationInSeconds": 600}).result().access_sas)
    page.upload_pages_from_url(two.url, offset=0, length=MIB, source_offset=0)
    page.upload_pages_from_url(one.url, offset=4 * MIB, length=1024, source_offset=MIB - 512)
    # a copy of other bytes than the sum says is none
    summed = lambda sum: {"headers": {"x-ms-source-content-crc64": base64.b64encode(struct.pack("<Q", sum)).decode()}}
    bytes_there = two.download_blob(offset=12288, length=512).readall()
    assert crc64(b"123456789") == 0xAE8B14860A799888
    page.upload_pages_from_url(two.url, offset=12288, length=512, source_offset=12288, **summed(crc64(bytes_there)))
    refused(400, "Crc64Mismatch", page.upload_pages_from_url, two.url, offset=0, length=512, source_offset=12288, **summed(crc64(bytes_there) ^ 1))
    # a copy of other bytes than the sum says is none
    summed = lambda sum: {"headers": {"x-ms-source-content-crc64": base64.b64encode(struct.pack("<Q", sum)).decode()}}
    bytes_there = two.download_blob(offset=12288, length=512).readall()
    assert crc64(b"123456789") == 0xAE8B14860A799888
    page.upload_pages_from_url(two.url, offset=12288, length=512, source_offset=12288, **summed(crc64(bytes_there)))
    refused(400, "Crc64Mismatch", page.upload_pages_from_url, two.url, offset=0, length=512, source_offset=12288, **summed(crc64(bytes_there) ^ 1))
    page.upload_page(footer(64 * MIB), offset=64 * MIB, length=512)
    refused(403, "CannotVerifyCopySource", page.upload_pages_from_url, one.url.replace("sig=", "sig=x"), offset=0, length=512, source_offset=0)
    refused(416, "InvalidRange", page.upload_pages_from_url, one.url, offset=0, length=1024, source_offset=64 * MIB)
    refused(413, "RequestBodyTooLarge", page.upload_pages_from_url, one.url, offset=0, length=4 * MIB + 512, source_offset=0)
    refused(403, "AuthorizationPermissionMismatch", one.upload_pages_from_url, two.url, offset=0, length=512, source_offset=0)
    client.disks.begin_revoke_access("prod", "copy").result()
    snapshot(client, "copied", client.disks.get("prod", "copy").id)
    copied = blob(opened(client, "copied"))
    assert copied.download_blob(offset=0, length=MIB).readall() == two.download_blob(offset=0, length=MIB).readall()
    assert copied.download_blob(offset=4 * MIB, length=1024).readall() == one.download_blob(offset=MIB - 512, length=1024).readall()
    client.snapshots.begin_revoke_access("prod", "copied").result()
    for start, length in ((0, 65536), (50 * MIB - 512, 1024)):
        old, new = one.download_blob(offset=start, length=length).readall(), two.download_blob(offset=start, length=length).readall()
        assert len(old) == len(new) == length and old != new
    refused(400, "InvalidHeaderValue", two.get_page_range_diff_for_managed_disk, "http://x/y?z")
    sim.settings(limits={"ranges_in_time": 2})
    refused(500, "OperationTimedOut", two.get_page_range_diff_for_managed_disk, one.url)
    assert len(two.get_page_range_diff_for_managed_disk(one.url, offset=0, length=16384)[0]) == 1
    sim.settings(limits={"ranges_in_time": 0})
    refused(409, "OperationNotAllowed", client.snapshots.begin_delete, "prod", "one")
    refused(409, "OperationNotAllowed", client.snapshots.begin_grant_access, "prod", "one", {"access": "Read", "durationInSeconds": 60})
    client.snapshots.begin_revoke_access("prod", "one").result()
    refused(403, "AuthenticationFailed", one.download_blob, offset=0, length=512)
    client.snapshots.begin_delete("prod", "one").result()
    client.snapshots.begin_delete("prod", "one").result()
    refused(404, "ResourceNotFound", client.snapshots.get, "prod", "one")
    refused(409, "PropertyChangeNotAllowed", client.snapshots.begin_create_or_update, "prod", "two", {
        "location": "westeurope", "properties": {"creationData": {"createOption": "Copy", "sourceResourceId": first.id}, "incremental": True}})


def relay(sim, client):
    """CopyStart to another region takes its time; a disk of the copy has the bytes."""
    disk = upload(client, "db", 32 * MIB, {0: b"\3" * 4096})
    snapshot(client, "local", disk.id)
    local = client.snapshots.get("prod", "local").id
    sim.settings(weather={"copy_seconds": 300})
    refused(400, "InvalidParameter", client.snapshots.begin_create_or_update, "dr", "away", {
        "location": "northeurope", "properties": {"creationData": {"createOption": "Copy", "sourceResourceId": local}, "incremental": True}})
    away = snapshot(client, "away", local, group="dr", location="northeurope", option="CopyStart")
    assert away.properties.completion_percent < 100
    refused(409, "OperationNotAllowed", client.snapshots.begin_grant_access, "dr", "away", {"access": "Read", "durationInSeconds": 60})
    sim.advance(301)
    assert client.snapshots.get("dr", "away").properties.completion_percent == 100
    made = client.disks.begin_create_or_update("dr", "restored", {
        "location": "northeurope", "properties": {"creationData": {"createOption": "Copy", "sourceResourceId": away.id}}}).result()
    assert made.properties.hyper_v_generation == "V2" and made.properties.disk_size_bytes == 32 * MIB
    sas = client.disks.begin_grant_access("dr", "restored", {"access": "Read", "durationInSeconds": 60}).result().access_sas
    assert blob(sas).download_blob(offset=0, length=8192).readall() == b"\3" * 4096 + b"\0" * 4096
    sim.advance(61)
    refused(403, "AuthenticationFailed", blob(sas).download_blob, offset=0, length=512)


def limits(sim, client):
    """What is refused: wrong uploads, wrong pages, too many open, what is kept, wrong tokens."""
    create = lambda size: client.disks.begin_create_or_update("prod", "odd", {
        "location": "westeurope", "properties": {"creationData": {"createOption": "Upload", "uploadSizeBytes": size}}})
    for size in (MIB + 512, 64 * MIB, 64 * MIB + 100):
        refused(400, "InvalidParameter", create, size)
    try:
        upload(client, "broken", 20 * MIB, {}, foot=b"\0" * 512)
        raise AssertionError("a VHD without a footer was taken")
    except HttpResponseError as why:
        assert "no footer" in str(why), why
    disk = upload(client, "kept", 20 * MIB, {})
    create(20 * MIB + 512).result()
    page = blob(client.disks.begin_grant_access("prod", "odd", {"access": "Write", "durationInSeconds": 60}).result().access_sas)
    refused(413, "RequestBodyTooLarge", page.upload_page, b"\1" * (4 * MIB + 512), offset=0, length=4 * MIB + 512)
    page.upload_page(b"\1" * 4 * MIB, offset=0, length=4 * MIB)
    page.clear_page(offset=0, length=4 * MIB)
    for number in range(7):
        snapshot(client, f"s{number}", disk.id)
    [opened(client, f"s{number}") for number in range(5)]
    refused(409, "OperationNotAllowed", client.snapshots.begin_grant_access, "prod", "s5", {"access": "Read", "durationInSeconds": 60})
    sim.settings(weather={"empty_pages": True})
    assert len(list(client.snapshots.list_by_resource_group("prod"))) == 7 and len(list(client.snapshots.list())) == 7
    refused(404, "ResourceGroupNotFound", client.disks.get, "nobody", "x")
    refused(401, "InvalidAuthenticationToken", compute(sim, "made up").disks.get, "prod", "x")
    for changes in ({"client_secret": "wrong"}, {"client_id": "wrong"}, {"scope": "wrong"}):
        try:
            token(sim, **changes)
            raise AssertionError(f"a token for {changes}")
        except urllib.error.HTTPError:
            pass
    sim.advance(3600)
    refused(401, "ExpiredAuthenticationToken", client.disks.get, "prod", "kept")


def kept(sim, client):
    """A snapshot is not deleted before its policy has run out; a locked policy is only made longer."""
    disk = upload(client, "web", 20 * MIB, {})
    snapshot(client, "one", disk.id)
    policy = lambda days, kind: {"immutabilityDurationDays": days, "type": kind}
    update, lock = client.snapshots.begin_update_immutability_policy, client.snapshots.begin_update_immutability_policy_lock
    refused(400, "InvalidParameter", lock, "prod", "one", policy(2, "Locked"))
    update("prod", "one", policy(9, "Unlocked")).result()
    update("prod", "one", policy(2, "Unlocked")).result()
    shown = judged(client.snapshots.get("prod", "one")).properties.immutability_policy
    assert (shown.type, shown.immutability_duration_days, shown.is_policy_expired) == ("Unlocked", 2, False), shown
    lock("prod", "one", policy(2, "Locked")).result()
    refused(409, "OperationNotAllowed", update, "prod", "one", policy(1, "Unlocked"))
    refused(409, "OperationNotAllowed", lock, "prod", "one", policy(1, "Locked"))
    refused(409, "OperationNotAllowed", client.snapshots.begin_delete, "prod", "one")
    sim.advance(2 * 86400 + 1)
    fresh = compute(sim)
    assert fresh.snapshots.get("prod", "one").properties.immutability_policy.is_policy_expired
    fresh.snapshots.begin_delete("prod", "one").result()


def encrypted(sim, client):
    """A disk encryption set is of one region; a snapshot of a disk has the disk's own; a copy has one of its region."""
    here, there = (group["encryption-set"] for group in sim.greeting["azure"]["groups"])
    shown = judged(client.disk_encryption_sets.get("prod", "replicas"))
    assert (shown.id, shown.location, shown.properties.encryption_type) == (here, "westeurope", "EncryptionAtRestWithCustomerKey")
    refused(404, "ResourceNotFound", client.disk_encryption_sets.get, "prod", "none")
    with_set = lambda id, kind="EncryptionAtRestWithCustomerKey": {"type": kind, "diskEncryptionSetId": id}
    size = 20 * MIB
    for code, status, wanted in [
        ("BadRequest", 400, with_set(there)), ("ResourceNotFound", 404, with_set(here + "x")),
        ("InvalidParameter", 400, with_set(here, "EncryptionAtRestWithPlatformAndCustomerKeys")),
        ("InvalidParameter", 400, with_set(here, "EncryptionAtRestWithPlatformKey")),
        ("InvalidParameter", 400, {"type": "EncryptionAtRestWithCustomerKey"}),
        ("InvalidParameter", 400, with_set(here.replace("replicas", "confidential"), "ConfidentialVmEncryptedWithCustomerKey")),
    ]:
        refused(status, code, upload, client, "odd", size, {}, encryption=wanted)
    disk = upload(client, "safe", size, {0: b"\1" * 4096}, encryption=with_set(here.upper()))
    assert disk.properties.encryption.disk_encryption_set_id == here.upper()
    refused(400, "InvalidParameter", snapshot, client, "one", disk.id)
    refused(400, "InvalidParameter", snapshot, client, "one", disk.id, encryption=with_set(here.replace("replicas", "replicas-twice"), "EncryptionAtRestWithPlatformAndCustomerKeys"))
    one = snapshot(client, "one", disk.id, encryption=with_set(here))
    assert one.properties.encryption.type == "EncryptionAtRestWithCustomerKey"
    refused(400, "BadRequest", snapshot, client, "away", one.id, "dr", "northeurope", "CopyStart", encryption=with_set(here))
    away = snapshot(client, "away", one.id, "dr", "northeurope", "CopyStart", encryption=with_set(there))
    assert away.properties.encryption.disk_encryption_set_id == there


def asserted(sim, client):
    """An assertion is taken that a registered certificate has signed: of this application, for this address, and of now."""
    key, crt = f"{sim.data}/key.pem", f"{sim.data}/app.crt"
    subprocess.run(f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=a -keyout {key} -out {crt}", shell=True, check=True, capture_output=True)
    der = subprocess.run(["openssl", "x509", "-in", crt, "-outform", "DER"], check=True, capture_output=True).stdout
    azure = sim.greeting["azure"]
    url64 = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=")

    def login(header={}, claims={}, spoil=False):
        now = int(time.time())
        head = {"alg": "PS256", "typ": "JWT", "x5t#S256": url64(hashlib.sha256(der).digest()).decode(), **header}
        body = {"aud": f"{azure['login']}/{azure['tenant']}/oauth2/v2.0/token", "iss": azure["client"], "sub": azure["client"], "nbf": now, "exp": now + 300, **claims}
        said = b".".join(url64(json.dumps(part).encode()) for part in (head, body))
        pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"]
        sign = subprocess.run(["openssl", "dgst", "-sha256", "-sign", key, *pss], input=said, check=True, capture_output=True).stdout
        sign = bytes([sign[0] ^ 1]) + sign[1:] if spoil else sign
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        return token(sim, client_secret="", client_assertion_type=kind, client_assertion=b".".join([said, url64(sign)]).decode())

    def denied(code, **more):
        try:
            login(**more)
        except urllib.error.HTTPError as why:
            said = why.read().decode()
            assert why.code == 401 and code in said, said
            return
        raise AssertionError(f"a token for {more}")

    denied("AADSTS700027")
    sim.control("PUT", f"credentials?application={azure['client']}", open(crt).read())
    compute(sim, login()).disks.list()
    denied("AADSTS700027", spoil=True)
    denied("AADSTS700027", header={"alg": "RS256"})
    denied("AADSTS700027", header={"x5t#S256": "AAAA"})
    denied("AADSTS700023", claims={"aud": "https://login.microsoftonline.com"})
    denied("AADSTS700023", claims={"iss": "another"})
    denied("AADSTS700024", claims={"exp": int(time.time()) - 400})


def points(sim, client):
    """A restore point holds all disks of a machine at one instant; it is read and compared as snapshots are."""
    disks = [upload(client, name, 24 * MIB, {0: name.encode() * 4096}) for name in ("abcd", "efgh")]
    made = {
        "location": "westeurope", "properties": {
            "hardwareProfile": {"vmSize": "Standard_B1s"},
            "storageProfile": {
                "osDisk": {"osType": "Linux", "createOption": "Attach", "managedDisk": {"id": disks[0].id}},
                "dataDisks": [{"lun": 0, "createOption": "Attach", "managedDisk": {"id": disks[1].id}}],
            },
            "networkProfile": {"networkInterfaces": [{"id": "/subscriptions/s/card"}]},
        },
    }
    server = client.virtual_machines.begin_create_or_update("prod", "web", made).result()
    source = {"location": "westeurope", "tags": {"a": "b"}, "properties": {"source": {"id": server.id}}}
    point = {"properties": {"consistencyMode": "CrashConsistent"}}
    sim.settings(weather={"empty_pages": True})
    held = []
    for number, name in enumerate(("one", "two")):
        shown = judged(client.restore_point_collections.create_or_update("prod", name, source))
        assert shown.tags == {"a": "b"} and shown.properties.source.id == server.id
        judged(client.restore_points.begin_create("prod", name, "all", point).result())
        refused(409, "OperationNotAllowed", client.restore_points.begin_create, "prod", name, "all", point)
        got = judged(client.restore_points.get("prod", name, "all")).properties
        assert got.consistency_mode == "CrashConsistent" and got.provisioning_state == "Succeeded", got
        storage = got.source_metadata.storage_profile
        ids = [storage.os_disk.disk_restore_point.id, storage.data_disks[0].disk_restore_point.id]
        listed = [judged(it) for it in client.disk_restore_point.list_by_restore_point("prod", name, "all")]
        assert {it.id for it in listed} == set(ids)
        names = [it.rsplit("/", 1)[1] for it in ids]
        shown = [judged(client.disk_restore_point.get("prod", name, "all", it)).properties for it in names]
        assert [it.source_resource_id for it in shown] == [it.id for it in disks]
        opened = [client.disk_restore_point.begin_grant_access("prod", name, "all", it, {"access": "Read", "durationInSeconds": 600}).result().access_sas for it in names]
        held.append((names, [it.family_id for it in shown], [blob(it) for it in opened]))
        write(sim, client, "efgh", {8192: b"\1" * 4096})
    assert held[0][1] == held[1][1] and held[0][1][0] != held[0][1][1], "a family for each disk"
    one, two = held[0][2][1], held[1][2][1]
    assert two.get_page_range_diff_for_managed_disk(one.url) == ([{"start": 8192, "end": 12287}], [])
    assert one.download_blob(offset=0, length=8).readall() == b"efghefgh"
    refused(409, "PreviousSnapshotOperationNotSupported", two.get_page_range_diff_for_managed_disk, held[0][2][0].url)
    assert [it.name for it in client.restore_point_collections.list("prod")] == ["one", "two"] and list(client.snapshots.list()) == []
    refused(400, "InvalidParameter", client.restore_points.begin_create, "prod", "one", "more", {"properties": {"consistencyMode": "ApplicationConsistent"}})
    refused(404, "ResourceNotFound", client.restore_points.begin_create, "prod", "nobody", "all", point)
    assert client.restore_point_collections.update("prod", "one", {"tags": {"c": "d"}}).tags == {"c": "d"}
    # what is open is not deleted; a collection goes with what is in it
    refused(409, "OperationNotAllowed", client.restore_point_collections.begin_delete, "prod", "one")
    for name, (names, _, _) in zip(("one", "two"), held):
        for it in names:
            client.disk_restore_point.begin_revoke_access("prod", name, "all", it).result()
        client.restore_point_collections.begin_delete("prod", name).result()
        client.restore_point_collections.begin_delete("prod", name).result()
        refused(404, "ResourceNotFound", client.restore_points.get, "prod", name, "all")
    assert list(client.restore_point_collections.list("prod")) == []


def trusted(sim, client):
    """No copy is of Trusted Launch, no disk goes to a machine of another type; a machine is upgraded while it is deallocated."""
    profile = lambda secure=True, kind="TrustedLaunch": {"securityType": kind, "uefiSettings": {"secureBootEnabled": secure, "vTpmEnabled": True}}

    def machine(name, disk, security=None, size="Standard_B1s"):
        more = {"securityProfile": security} if security else {}
        return judged(client.virtual_machines.begin_create_or_update("prod", name, {"location": "westeurope", "tags": {"a": "b"}, "properties": {
            "hardwareProfile": {"vmSize": size},
            "storageProfile": {"osDisk": {"osType": "Linux", "createOption": "Attach", "managedDisk": {"id": disk}}},
            "networkProfile": {"networkInterfaces": [{"id": "/subscriptions/s/card"}]}, **more}}).result())

    change = lambda name, security, **more: client.virtual_machines.begin_update("prod", name, {"properties": {"securityProfile": security}, **more}).result()
    disk = upload(client, "plain", 20 * MIB, {0: b"\1" * 4096})
    refused(400, "BadRequest", machine, "web", disk.id, profile())
    machine("web", disk.id)
    refused(409, "OperationNotAllowed", change, "web", profile())
    client.virtual_machines.begin_power_off("prod", "web").result()
    refused(409, "OperationNotAllowed", change, "web", profile())
    client.virtual_machines.begin_deallocate("prod", "web").result()
    refused(400, "BadRequest", change, "web", profile(kind="Standard"))
    changed = judged(change("web", profile(), tags={"c": "d"}))
    security = changed.properties.security_profile
    assert (security.security_type, security.uefi_settings.secure_boot_enabled, security.uefi_settings.v_tpm_enabled) == ("TrustedLaunch", True, True), security
    assert changed.tags == {"c": "d"} and client.virtual_machines.get("prod", "web").properties.security_profile == security
    client.virtual_machines.begin_start("prod", "web").result()
    assert "PowerState/running" in [it.code for it in client.virtual_machines.instance_view("prod", "web").statuses]
    # what is made of its disk is of its type, without being asked
    assert client.disks.get("prod", "plain").properties.security_profile.security_type == "TrustedLaunch"
    one = snapshot(client, "one", disk.id)
    assert one.properties.security_profile.security_type == "TrustedLaunch"
    copy = lambda name, **more: client.disks.begin_create_or_update("prod", name, {"location": "westeurope", "properties": {
        "creationData": {"createOption": "Copy", "sourceResourceId": one.id}, **more}}).result()
    refused(400, "BadRequest", copy, "asked", securityProfile={"securityType": "TrustedLaunch"})
    made = copy("made")
    refused(400, "BadRequest", machine, "db", made.id)
    refused(400, "BadRequest", machine, "db", made.id, profile(), size="Standard_M64")
    assert machine("db", made.id, profile(False)).properties.security_profile.uefi_settings.secure_boot_enabled is False
    # not of the first generation, nor of a size that has none
    for name, size, more in (("old", "Standard_B1s", {"hyperVGeneration": "V1"}), ("large", "Standard_M64", {})):
        machine(name, upload(client, name, 20 * MIB, {}, **more).id, size=size)
        client.virtual_machines.begin_deallocate("prod", name).result()
        refused(400, "BadRequest", change, name, profile())


def galleries(sim, client):
    """A version is copied to each region for itself; one that failed is taken out and put in again; a disk of it has its bytes."""
    sim.settings(weather={"replicate_seconds": 600})
    data = random.Random(3).randbytes(65536)
    disks = [upload(client, name, 20 * MIB, {0: data, 4 * MIB: name.encode() * 1024}) for name in ("abcd", "efgh")]
    shots = [snapshot(client, f"s-{disk.name}", disk.id).id for disk in disks]
    judged(client.galleries.get("prod", "replicas"))
    refused(404, "ResourceNotFound", client.galleries.get, "prod", "none")

    def define(name, generation="V2", **more):
        return judged(client.gallery_images.begin_create_or_update("prod", "replicas", name, {"location": "westeurope", "tags": {"a": "b"}, "properties": {
            "osType": "Linux", "osState": "Specialized", "hyperVGeneration": generation, "architecture": "x64",
            "identifier": {"publisher": "p", "offer": "o", "sku": name}, **more}}).result())

    def version(regions, publishing={}, safety={}):
        return {"location": "westeurope", "tags": {"c": "d"}, "properties": {
            "publishingProfile": {"targetRegions": [{"name": it, "regionalReplicaCount": 1} for it in regions], **publishing},
            "storageProfile": {"osDiskImage": {"source": {"id": shots[0]}}, "dataDiskImages": [{"lun": 0, "source": {"id": shots[1]}}]},
            "safetyProfile": {"allowDeletionOfReplicatedLocations": True, **safety}}}

    all, here = client.gallery_image_versions, ("prod", "replicas", "web")
    define("web")
    refused(409, "PropertyChangeNotAllowed", define, "web", "V1")
    for name, regions, more in (("1.0", ["westeurope"], {}), ("1.0.0", ["northeurope"], {}), ("1.0.0", ["westeurope", "nowhere"], {}),
                                ("1.0.0", ["westeurope", "northeurope"], {"replicationMode": "Shallow"})):
        refused(400, "InvalidParameter", all.begin_create_or_update, *here, name, version(regions, more))
    for name, generation, more in (("old", "V1", {}), ("trusted", "V2", {"features": [{"name": "SecurityType", "value": "TrustedLaunchSupported"}]})):
        define(name, generation, **more)
        refused(400, "InvalidParameter", all.begin_create_or_update, "prod", "replicas", name, "1.0.0", version(["westeurope"]))
    refused(404, "ResourceNotFound", all.begin_create_or_update, "prod", "replicas", "none", "1.0.0", version(["westeurope"]))
    all.begin_create_or_update(*here, "2026.1130.30000", version(["West Europe", "northeurope"]), polling=False)

    def look(name="2026.1130.30000"):
        shown = judged(all.get(*here, name, expand="ReplicationStatus"))
        return {it.region: (it.state, it.progress) for it in shown.properties.replication_status.summary}, shown

    def disk(name, place, group, lun=None, number="2026.1130.30000"):
        of = {"id": look(number)[1].id, **({} if lun is None else {"lun": lun})}
        return judged(client.disks.begin_create_or_update(group, name, {"location": place, "properties": {
            "creationData": {"createOption": "FromImage", "galleryImageReference": of}}}).result())

    sim.advance(300)
    states, shown = look()
    assert {it: state for it, (state, _) in states.items()} == {"West Europe": "Replicating", "northeurope": "Replicating"} and states["northeurope"][1] in range(50, 60), states
    assert (shown.properties.provisioning_state, shown.properties.replication_status.aggregated_state) == ("Updating", "InProgress")
    refused(404, "GalleryImageNotFound", disk, "early", "northeurope", "dr")
    refused(409, "OperationNotAllowed", all.begin_delete, *here, "2026.1130.30000")
    refused(409, "OperationNotAllowed", all.begin_update, *here, "2026.1130.30000", {"tags": {}})
    sim.advance(301)
    assert look()[1].properties.replication_status.aggregated_state == "Completed"
    refused(409, "PropertyChangeNotAllowed", all.begin_create_or_update, *here, "2026.1130.30000", {**version(["westeurope"]), "location": "northeurope"})
    # it holds what the snapshots held
    for name in ("s-abcd", "s-efgh"):
        client.snapshots.begin_delete("prod", name).result()
    for lun, name in ((None, "abcd"), (0, "efgh")):
        made = disk(f"of-{name}", "northeurope", "dr", lun)
        assert (made.properties.disk_size_bytes, made.properties.hyper_v_generation) == (20 * MIB, "V2")
        sas = client.disks.begin_grant_access("dr", made.name, {"access": "Read", "durationInSeconds": 60}).result().access_sas
        assert blob(sas).download_blob(offset=0, length=65536).readall() == data
        assert blob(sas).download_blob(offset=4 * MIB, length=4096).readall() == name.encode() * 1024
    assert list(client.snapshots.list_by_resource_group("prod")) == []
    # one region fails, and the call with it; the others stay
    change = lambda *regions: all.begin_update(*here, "2026.1130.30000", {"properties": {"publishingProfile": {"targetRegions": [{"name": it} for it in regions]}}})
    sim.settings(weather={"bad_regions": ["eastus"]})
    try:
        change("westeurope", "northeurope", "eastus").result()
        raise AssertionError("a region without capacity took a version")
    except HttpResponseError as why:
        assert "eastus" in str(why), why
    states, shown = look()
    assert (states["eastus"][0], states["northeurope"][0], shown.properties.provisioning_state) == ("Failed", "Completed", "Failed"), states
    sim.settings(weather={"bad_regions": []})
    change("westeurope", "northeurope", "eastus")
    assert look()[0]["eastus"][0] == "Failed", "asking again changes nothing"
    change("westeurope", "northeurope").result()
    assert "eastus" not in look()[0]
    all.begin_update(*here, "2026.1130.30000", {"properties": {"publishingProfile": {"targetRegions": [{"name": it} for it in ("westeurope", "northeurope", "eastus")]}}}, polling=False)
    assert look()[0]["eastus"][0] == "Replicating"
    sim.advance(601)
    assert look()[0]["eastus"][0] == "Completed"
    refused(409, "CannotDeleteResource", client.gallery_images.begin_delete, *here)
    all.begin_delete(*here, "2026.1130.30000").result()
    # kept until its end
    shots[:] = [snapshot(client, f"t-{it.name}", it.id).id for it in disks]
    sim.settings(weather={"replicate_seconds": 0})
    end = sim.control("POST", "clock", {})["now"]
    kept = (datetime.datetime.fromisoformat(end.replace("Z", "+00:00")) + datetime.timedelta(hours=1)).isoformat()
    made = all.begin_create_or_update(*here, "1.0.0", version(["westeurope"], {"endOfLifeDate": kept}, {"blockDeletionBeforeEndOfLife": True, "allowDeletionOfReplicatedLocations": False})).result()
    assert judged(made).properties.safety_profile.block_deletion_before_end_of_life
    refused(409, "OperationNotAllowed", all.begin_delete, *here, "1.0.0")
    sim.advance(3601)
    all, client = compute(sim).gallery_image_versions, compute(sim)
    assert [it.name for it in all.list_by_gallery_image(*here)] == ["1.0.0"]
    all.begin_delete(*here, "1.0.0").result()
    all.begin_delete(*here, "1.0.0").result()
    for name in ("web", "old", "trusted"):
        client.gallery_images.begin_delete("prod", "replicas", name).result()
    refused(404, "ResourceNotFound", client.gallery_images.get, *here)


def slow(sim, client):
    """202 with two addresses: InProgress and Retry-After until the clock has moved on."""
    sim.settings(weather={"arm_seconds": 15})
    poller = client.disks.begin_create_or_update("prod", "empty", {
        "location": "westeurope", "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}}, polling=False)
    assert client.disks.get("prod", "empty").properties.provisioning_state == "Updating"
    call = next(it for it in reversed(sim.control("GET", "calls")) if it["operation"] == "Disks_CreateOrUpdate")
    assert call["status"] == 202 and poller is not None
    sim.control("POST", "clock", {"speed": 30})
    began = time.monotonic()
    client.disks.begin_delete("prod", "empty").result()
    polls = [it for it in sim.control("GET", "calls") if it["operation"] == "Operations_Get"]
    assert polls and time.monotonic() - began < 60
    sim.rule("Disks_Get", "status", status=429, retry_after=3, times=1)
    refused(429, "TooManyRequests", client.disks.get, "prod", "empty")


FACTS = [disks, relay, limits, kept, encrypted, asserted, points, trusted, galleries, slow]


def main():
    failed = []
    for fact in FACTS:
        if len(sys.argv) > 1 and fact.__name__ not in sys.argv[1:]:
            continue
        with Sim("--calm", "--no-qemu") as sim:
            try:
                fact(sim, compute(sim))
                print(f"ok   {fact.__name__:8} {fact.__doc__}", flush=True)
            except (AssertionError, HttpResponseError) as why:
                failed.append(fact.__name__)
                print(f"FAIL {fact.__name__}: {why}", flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


main()
