"""Microsoft's SDKs for Python, pointed at a simulator; what their models do not know of an answer is a finding."""

import json
import struct
import urllib.parse
import urllib.request

from azure.core.exceptions import HttpResponseError
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.mgmt.compute import ComputeManagementClient
from azure.storage.blob import BlobClient

MIB = 1 << 20


class Bearer(SansIOHTTPPolicy):
    """The SDK's own policy refuses plain http."""

    def __init__(self, token):
        self.token = token

    def on_request(self, request):
        request.http_request.headers["Authorization"] = f"Bearer {self.token}"


def token(sim, **changes):
    azure = sim.greeting["azure"]
    form = {
        "grant_type": "client_credentials", "client_id": azure["client"], "client_secret": azure["secret"],
        "scope": "https://management.azure.com/.default", **changes,
    }
    address = f"{azure['login']}/{azure['tenant']}/oauth2/v2.0/token"
    with urllib.request.urlopen(address, data=urllib.parse.urlencode(form).encode(), timeout=60) as answer:
        return json.load(answer)["access_token"]


def compute(sim, bearer=None):
    azure = sim.greeting["azure"]
    return ComputeManagementClient(
        credential=object(), subscription_id=azure["subscription"], base_url=azure["arm"], credential_scopes=["x/.default"],
        authentication_policy=Bearer(bearer or token(sim)), polling_interval=0, retry_total=0,
    )


def blob(sas):
    return BlobClient.from_blob_url(sas, retry_total=0)


def refused(status, code, call, *arguments, **more):
    try:
        call(*arguments, **more)
    except HttpResponseError as why:
        got = getattr(why, "error_code", None) or (why.error and why.error.code)
        assert (why.status_code, str(getattr(got, "value", got))) == (status, code), f"{why.status_code} {got}: {why}"
        return
    raise AssertionError(f"not refused with {status} {code}")


def known(model, path=""):
    """Members of an answer that the SDK's models do not have."""
    found = []
    fields = {field._rest_name: name for name, field in model._attr_to_rest_field.items()}
    for name in model:
        if name not in fields:
            found.append(f"{path}/{name}")
            continue
        value = getattr(model, fields[name])
        if hasattr(value, "_attr_to_rest_field"):
            found += known(value, f"{path}/{name}")
    return found


def judged(model):
    assert known(model) == [], f"the model does not know {known(model)}"
    return model


def footer(size):
    out = bytearray(512)
    out[0:8] = b"conectix"
    out[8:12], out[12:16], out[16:24] = struct.pack(">I", 2), struct.pack(">I", 0x10000), b"\xff" * 8
    out[40:48] = out[48:56] = struct.pack(">Q", size)
    out[60:64] = struct.pack(">I", 2)
    out[64:68] = struct.pack(">I", ~sum(out) & 0xffffffff)
    return bytes(out)


def upload(client, name, size, parts, foot=None, **more):
    """A disk with the given bytes."""
    client.disks.begin_create_or_update("prod", name, {
        "location": "westeurope", "sku": {"name": "Premium_LRS"}, "tags": {"a": "b"},
        "properties": {"creationData": {"createOption": "Upload", "uploadSizeBytes": size + 512}, "osType": "Linux", "hyperVGeneration": "V2", **more},
    }).result()
    assert client.disks.get("prod", name).properties.disk_state == "ReadyToUpload"
    sas = client.disks.begin_grant_access("prod", name, {"access": "Write", "durationInSeconds": 600}).result().access_sas
    assert client.disks.get("prod", name).properties.disk_state == "ActiveUpload"
    page = blob(sas)
    for start, data in parts.items():
        page.upload_page(data, offset=start, length=len(data))
    page.upload_page(footer(size) if foot is None else foot, offset=size, length=512)
    client.disks.begin_revoke_access("prod", name).result()
    return judged(client.disks.get("prod", name))


def snapshot(client, name, source, group="prod", location="westeurope", option="Copy", **more):
    return judged(client.snapshots.begin_create_or_update(group, name, {
        "location": location, "properties": {"creationData": {"createOption": option, "sourceResourceId": source}, "incremental": True, **more},
    }).result())


def opened(client, name, group="prod"):
    return client.snapshots.begin_grant_access(group, name, {"access": "Read", "durationInSeconds": 3600}).result().access_sas
