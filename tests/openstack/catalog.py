"""catalog.py PORT PASSWORD RULES PROJECT...: users, projects, application credentials, services and endpoints; safe to
repeat. RULES is the file with what an application credential may do.

A service that does not run (a lower tier) is in the catalogue all the same: it refuses connections, as a service that is
down does.
"""
import json
import sys

import openstack

port, password, projects = int(sys.argv[1]), sys.argv[2], sys.argv[4:]
with open(sys.argv[3]) as file:
    rules = json.load(file)
identity = openstack.connect(cloud="oslab").identity


def user(name, project_name, *roles):
    project = identity.find_project(project_name) or identity.create_project(name=project_name, domain_id="default")
    found = identity.find_user(name) or identity.create_user(
        name=name, password=password, domain_id="default", default_project_id=project.id)
    for role_name in roles:
        role = identity.find_role(role_name) or identity.create_role(name=role_name)
        identity.assign_project_role_to_user(project, found, role)


user("svc", "service", "admin", "service")
for name in projects:
    user(name, name, "member")  # an ordinary tenant: what the product needs must be possible with that
    own = openstack.connect(cloud=name).identity
    me = own.get_user_id()
    if not own.find_application_credential(me, "replicate"):
        # by hand: this openstacksdk would leave the rules out without a word
        answer = own.post(f"/users/{me}/application_credentials", json={"application_credential": {
            "name": "replicate", "secret": password, "roles": [{"name": "member"}], "access_rules": rules}})
        if answer.status_code != 201:
            sys.exit(f"{answer.status_code} {answer.text}")

SERVICES = [("glance", "image", 0, ""), ("placement", "placement", 1, ""), ("neutron", "network", 2, ""),
            ("nova", "compute", 3, "/v2.1"), ("cinderv3", "volumev3", 4, "/v3/%(project_id)s")]
REGIONS = {"RegionOne": port + 10, "RegionTwo": port + 20}
known = {region.id for region in identity.regions()}
for region in REGIONS:
    if region not in known:
        identity.create_region(id=region)
by_type = {service.type: service for service in identity.services()}
endpoints = {(e.service_id, e.region_id, e.interface) for e in identity.endpoints()}


def endpoint(service, region, url):
    for interface in ("public", "internal", "admin"):
        if (service.id, region, interface) not in endpoints:
            identity.create_endpoint(service_id=service.id, region_id=region, interface=interface, url=url)


endpoint(by_type["identity"], "RegionTwo", f"http://127.0.0.1:{port}/v3")
for name, kind, offset, path in SERVICES:
    service = by_type.get(kind) or identity.create_service(name=name, type=kind)
    for region, base in REGIONS.items():
        endpoint(service, region, f"http://127.0.0.1:{base + offset}{path}")
