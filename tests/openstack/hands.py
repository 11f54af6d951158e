"""What a person with an account does at the cloud, for the tests: makes servers to capture, reads consoles, cleans up.

Usage: hands.py upload CLOUD NAME FILE FORMAT [KEY=VALUE...]
                                                   an image of a file, with properties; prints its id
       hands.py serve CLOUD NAME image|volume IMAGE [DATA]
                                                   a running server that boots from an image, or from a volume made of
                                                   it; with a second disk, a volume made of the image DATA; prints its id
       hands.py console CLOUD SERVER               prints its console so far, whole lines only
       hands.py stop CLOUD SERVER                  powers it off, and waits until it is
       hands.py delete CLOUD SERVER                deletes it, and waits until it is gone
       hands.py key CLOUD NAME                     makes a key pair
       hands.py group CLOUD NAME                   makes a security group; prints its id
       hands.py clean CLOUD...                     deletes everything of the project but its network `net`
"""
import sys
import time

from openstack.exceptions import ResourceFailure

from judge import KINDS, connect, listing

LIMIT = 600
# on a busy machine Nova's services time out against each other, and give up a server that never ran
ATTEMPTS = 3
# in the order in which the services let things go
DELETED = (("servers", "compute", "/servers/{id}"), ("keypairs", "compute", "/os-keypairs/{name}"),
           ("backups", "block_storage", "/backups/{id}"), ("group_snapshots", "block_storage", "/group_snapshots/{id}"),
           ("snapshots", "block_storage", "/snapshots/{id}"), ("images", "image", "/images/{id}"),
           ("volumes", "block_storage", "/volumes/{id}"), ("ports", "network", "/ports/{id}"),
           ("security_groups", "network", "/security-groups/{id}"), ("subnets", "network", "/subnets/{id}"),
           ("networks", "network", "/networks/{id}"))


def upload(cloud, name, file, disk_format, *properties):
    image = connect(cloud).create_image(
        name, filename=file, disk_format=disk_format, container_format="bare", wait=True, timeout=LIMIT,
        validate_checksum=False, **dict(it.split("=", 1) for it in properties))
    print(image.id)


def volume(connection, name, image):
    made = connection.block_storage.create_volume(name=name, size=1, image_id=image)
    connection.block_storage.wait_for_status(made, "available", ["error"], interval=1, wait=LIMIT)
    return {"uuid": made.id, "source_type": "volume", "destination_type": "volume", "delete_on_termination": True}


def serve(cloud, name, boots_from, image, data=None):
    connection = connect(cloud)
    for attempt in range(ATTEMPTS):
        made = begin(connection, name, boots_from, image, data)
        try:
            connection.compute.wait_for_server(made, interval=1, wait=LIMIT)
            print(made.id)
            return
        except ResourceFailure as failure:
            fault = connection.compute.get_server(made).fault
            print(f"{name}: {failure}: {(fault or {}).get('message')}", file=sys.stderr)
            connection.compute.delete_server(made)
            connection.compute.wait_for_delete(made, interval=1, wait=LIMIT)
    sys.exit(f"{name}: given up {ATTEMPTS} times")


def begin(connection, name, boots_from, image, data):
    network = connection.network.find_network("net").id
    server = {"name": name, "flavorRef": connection.compute.find_flavor("small").id,
              "networks": [{"uuid": network, "fixed_ip": "10.0.2.15"}], "metadata": {"backup": "daily"}}
    disks = []
    if boots_from == "volume":
        disks.append({"boot_index": 0, **volume(connection, f"{name}-root", image)})
    else:
        server["imageRef"] = image
        if data:
            disks.append({"boot_index": 0, "uuid": image, "source_type": "image", "destination_type": "local"})
    if data:
        disks.append({"boot_index": -1, **volume(connection, f"{name}-data", data)})
    if disks:
        server["block_device_mapping_v2"] = disks
    answer = connection.compute.post("/servers", json={"server": server}, microversion="2.67")
    if answer.status_code != 202:
        sys.exit(f"{answer.status_code} {answer.text}")
    return connection.compute.get_server(answer.json()["server"]["id"])


def console(cloud, server):
    found = connect(cloud).compute.find_server(server, ignore_missing=False)
    output = connect(cloud).compute.get_server_console_output(found)["output"]
    print(output[:output.rfind("\n") + 1])


def stop(cloud, server):
    compute = connect(cloud).compute
    found = compute.find_server(server, ignore_missing=False)
    compute.stop_server(found)
    compute.wait_for_server(found, "SHUTOFF", interval=1, wait=LIMIT)


def delete(cloud, server):
    compute = connect(cloud).compute
    found = compute.find_server(server, ignore_missing=False)
    compute.delete_server(found)
    compute.wait_for_delete(found, interval=1, wait=LIMIT)


def key(cloud, name):
    connect(cloud).compute.create_keypair(name=name)


def group(cloud, name):
    print(connect(cloud).network.create_security_group(name=name).id)


def clean(cloud):
    """Again and again until nothing is left: what is in use goes when its user has gone."""
    connection = connect(cloud)
    end = time.time() + LIMIT
    while True:
        world = listing(cloud)
        spared = [network["id"] for network in world["networks"] if network["name"] == "net"]
        left = []
        for kind, service, path in DELETED:
            for entry in world[kind]:
                if entry.get("id") in spared or entry.get("network_id") in spared and kind == "subnets":
                    continue
                left.append(f"{kind} {entry.get('id')}")
                if kind == "images" and entry["protected"]:
                    connection.image.update_image(entry["id"], is_protected=False)
                version = KINDS[kind][3]
                getattr(connection, service).delete(path.format(**entry), **({"microversion": version} if version else {}))
        if not left:
            return
        if time.time() > end:
            sys.exit(f"{cloud}: cannot delete {', '.join(left)}")
        time.sleep(1)


if __name__ == "__main__":
    verb, arguments = sys.argv[1], sys.argv[2:]
    if verb == "clean":
        for name in arguments:
            clean(name)
    else:
        {"upload": upload, "serve": serve, "console": console, "stop": stop,
         "delete": delete, "key": key, "group": group}[verb](*arguments)
