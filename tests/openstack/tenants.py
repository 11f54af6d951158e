"""tenants.py PROJECT...: flavours, and in every project and region a network that servers can be launched on; safe to
repeat."""
import sys

import openstack

# with 10.0.2.15 for the guest's fixed address: what tests/guest sets up inside
NETWORK = {"ip_version": 4, "cidr": "10.0.2.0/24", "enable_dhcp": False}

for region in ("", "-two"):
    compute = openstack.connect(cloud=f"oslab{region}").compute
    for name, ram, disk in (("small", 256, 1), ("medium", 512, 2)):
        if not compute.find_flavor(name):
            compute.create_flavor(name=name, ram=ram, vcpus=1, disk=disk)
    for project in sys.argv[1:]:
        network = openstack.connect(cloud=f"{project}{region}").network
        if not network.find_network("net"):
            made = network.create_network(name="net")
            network.create_subnet(network_id=made.id, name="net", **NETWORK)
