"""The judge of the OpenStack tests: what is there, seen with openstacksdk and none of the project's own code.

Usage: judge.py list CLOUD...          everything that the clouds' project holds, as JSON by cloud and kind
       judge.py hash CLOUD IMAGE       SHA-512 of an image's bytes, downloaded and hashed here
       judge.py server CLOUD SERVER    a server as Nova tells of it to this cloud's user; an administrator sees more
"""
import hashlib
import json
import sys

import openstack

# kind -> service, path, key of the answer, microversion
KINDS = {
    "servers": ("compute", "/servers/detail", "servers", "2.67"),
    "keypairs": ("compute", "/os-keypairs", "keypairs", "2.67"),
    "images": ("image", "/v2/images", "images", None),
    "hidden_images": ("image", "/v2/images?os_hidden=true", "images", None),
    "volumes": ("block_storage", "/volumes/detail", "volumes", "3.59"),
    "snapshots": ("block_storage", "/snapshots/detail", "snapshots", "3.59"),
    "groups": ("block_storage", "/groups/detail", "groups", "3.59"),
    "group_snapshots": ("block_storage", "/group_snapshots/detail", "group_snapshots", "3.59"),
    "backups": ("block_storage", "/backups/detail", "backups", "3.59"),
    "networks": ("network", "/v2.0/networks", "networks", None),
    "subnets": ("network", "/v2.0/subnets", "subnets", None),
    "ports": ("network", "/v2.0/ports", "ports", None),
    "security_groups": ("network", "/v2.0/security-groups", "security_groups", None),
}


def connect(cloud):
    return openstack.connect(cloud=cloud)


def get(connection, service, path, version=None):
    """One answer; the root of image and network addresses has no version in the catalogue."""
    proxy = getattr(connection, service)
    if path.startswith(("/v2/", "/v2.0/")):
        root = proxy.get_endpoint().rstrip("/")
        for tail in ("/v2.0", "/v2"):
            root = root[: -len(tail)] if root.endswith(tail) else root
        path = root + path
    answer = proxy.get(path, microversion=version) if version else proxy.get(path)
    if answer.status_code != 200:
        sys.exit(f"{path}: {answer.status_code} {answer.text[:500]}")
    return answer.json()


def every(connection, kind):
    """All entries of a kind, page by page."""
    service, path, key, version = KINDS[kind]
    found = []
    while path:
        answer = get(connection, service, path, version)
        found += answer[key]
        path = answer.get("next") or next(
            (link["href"] for link in answer.get(f"{key}_links", []) if link["rel"] == "next"), None)
    return found


def listing(cloud):
    connection = connect(cloud)
    project = connection.current_project_id
    world = {kind: every(connection, kind) for kind in KINDS}
    world["keypairs"] = [entry["keypair"] for entry in world["keypairs"]]
    world["images"] += world.pop("hidden_images")
    for image in world["images"]:
        if image["owner"] == project and image["visibility"] == "shared":
            members = get(connection, "image", f"/v2/images/{image['id']}/members")["members"]
            image["members"] = {member["member_id"]: member["status"] for member in members}
    # what others share with us, and the default group, is nobody's orphan
    for kind in ("images", "networks", "subnets", "ports"):
        world[kind] = [e for e in world[kind] if project in (e.get("owner"), e.get("project_id"))]
    world["security_groups"] = [e for e in world["security_groups"] if e["name"] != "default"]
    return {"project": project, **world}


def digest(cloud, image):
    connection = connect(cloud)
    answer = connection.image.get(f"/images/{image}/file", stream=True)
    if answer.status_code != 200:
        sys.exit(f"{image}: {answer.status_code} {answer.text[:500]}")
    found = hashlib.sha512()
    for chunk in answer.iter_content(1 << 20):
        found.update(chunk)
    return found.hexdigest()


if __name__ == "__main__":
    verb, arguments = sys.argv[1], sys.argv[2:]
    if verb == "list":
        json.dump({cloud: listing(cloud) for cloud in arguments}, sys.stdout, indent=1)
    elif verb == "hash":
        print(digest(*arguments))
    elif verb == "server":
        cloud, server = arguments
        json.dump(get(connect(cloud), "compute", f"/servers/{server}", "2.67")["server"], sys.stdout)
    else:
        sys.exit(__doc__)
