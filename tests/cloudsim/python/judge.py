"""Holds a simulator's answers, and the requests that it recorded, against botocore's models of the provider's API.

Everything that a model does not know, every value of a wrong type and every missing required member is a finding.
"""

import base64
import json
import re
import xml.etree.ElementTree as ElementTree
from datetime import datetime
from functools import lru_cache

import botocore.session

MODELS = {}


def model(service):
    if service not in MODELS:
        MODELS[service] = botocore.session.get_session().get_service_model(service)
    return MODELS[service]


def local(tag):
    return tag.rsplit("}", 1)[-1]


def scalar(shape, text, path, found):
    kind = shape.type_name
    try:
        if kind in ("integer", "long"):
            int(text)
        elif kind in ("float", "double"):
            float(text)
        elif kind == "boolean" and text not in ("true", "false"):
            raise ValueError("neither true nor false")
        elif kind == "timestamp":
            datetime.fromisoformat(text.replace("Z", "+00:00"))
        elif kind == "blob":
            base64.b64decode(text, validate=True)
        elif getattr(shape, "enum", None) and text not in shape.enum:
            raise ValueError(f"is none of {shape.enum[:8]}")
    except ValueError as why:
        found.append(f"{path}: {text!r} is no {kind}: {why}")


def xml(shape, element, path, found, ignore=()):
    """An element against an output shape."""
    if shape.type_name == "structure":
        names = {member.serialization.get("name", name): (name, member) for name, member in shape.members.items()}
        seen = set()
        for child in element:
            name = local(child.tag)
            if name in ignore:
                continue
            if name not in names:
                found.append(f"{path}/{name}: the model has no such member")
            elif name in seen:
                found.append(f"{path}/{name}: is there twice")
            else:
                xml(names[name][1], child, f"{path}/{name}", found)
            seen.add(name)
        for name, (member, _) in names.items():
            if member in shape.required_members and name not in seen:
                found.append(f"{path}/{name}: is required, and missing")
        if element.text and element.text.strip():
            found.append(f"{path}: a structure with text")
    elif shape.type_name == "list":
        wanted = shape.member.serialization.get("name", "item" if "member" not in shape.member.serialization else "member")
        for index, child in enumerate(element):
            if local(child.tag) not in (wanted, "item"):
                found.append(f"{path}[{index}]: is named {local(child.tag)}")
            xml(shape.member, child, f"{path}[{index}]", found)
    else:
        if len(element):
            found.append(f"{path}: has elements, and is a {shape.type_name}")
        scalar(shape, element.text or "", path, found)


def jsn(shape, value, path, found):
    """A JSON value against a shape; members elsewhere than in the body are left out."""
    kind = shape.type_name
    if kind == "structure":
        if not isinstance(value, dict):
            found.append(f"{path}: is no object")
            return
        names = {m.serialization.get("name", n): (n, m) for n, m in shape.members.items() if "location" not in m.serialization}
        for name, inner in value.items():
            if name not in names:
                found.append(f"{path}/{name}: the model has no such member")
            else:
                jsn(names[name][1], inner, f"{path}/{name}", found)
        for name, (member, _) in names.items():
            if member in shape.required_members and name not in value:
                found.append(f"{path}/{name}: is required, and missing")
    elif kind == "list":
        if not isinstance(value, list):
            found.append(f"{path}: is no list")
            return
        for index, inner in enumerate(value):
            jsn(shape.member, inner, f"{path}[{index}]", found)
    elif kind == "map":
        if not isinstance(value, dict):
            found.append(f"{path}: is no map")
            return
        for name, inner in value.items():
            jsn(shape.value, inner, f"{path}/{name}", found)
    elif kind in ("integer", "long"):
        if not isinstance(value, int) or isinstance(value, bool):
            found.append(f"{path}: {value!r} is no {kind}")
    elif kind == "timestamp":
        if not isinstance(value, (int, float)):
            found.append(f"{path}: {value!r} is no {kind}")
    elif kind == "boolean":
        if not isinstance(value, bool):
            found.append(f"{path}: {value!r} is no {kind}")
    elif not isinstance(value, str):
        found.append(f"{path}: {value!r} is no {kind}")
    else:
        scalar(shape, value, path, found)


def answer(service, operation, status, headers, body, found):
    """A successful answer as it came."""
    shape = model(service).operation_model(operation).output_shape
    protocol = model(service).metadata["protocol"]
    wanted = model(service).operation_model(operation).http.get("responseCode", 200)
    if status != wanted:
        found.append(f"{operation}: status {status}, the model says {wanted}")
    if protocol == "rest-json":
        payload = shape.serialization.get("payload")
        if payload is None:
            jsn(shape, json.loads(body or b"{}"), operation, found)
        lower = {name.lower(): value for name, value in headers.items()}
        for name, member in shape.members.items():
            if member.serialization.get("location") == "header":
                header = member.serialization["name"].lower()
                if header not in lower:
                    found.append(f"{operation}: the header {header} is missing")
                else:
                    scalar(member, lower[header], f"{operation}/{header}", found)
        return
    if protocol == "json":
        jsn(shape, json.loads(body), operation, found)
        return
    root = ElementTree.fromstring(body)
    if local(root.tag) != f"{operation}Response":
        found.append(f"{operation}: the root is {root.tag}")
    if protocol == "query":
        result = next((child for child in root if local(child.tag) == f"{operation}Result"), None)
        if result is None:
            found.append(f"{operation}: no {operation}Result")
        else:
            xml(shape, result, operation, found)
        return
    if not root.tag.startswith("{http://ec2.amazonaws.com/doc/2016-11-15/}"):
        found.append(f"{operation}: the namespace is that of {root.tag}")
    if shape is None:
        extra = {local(child.tag) for child in root} - {"requestId", "return"}
        if extra:
            found.append(f"{operation}: {extra} in an answer that has no members")
        return
    # calls without a result answer `return` all the same
    ignore = ("requestId",) if "Return" in shape.members else ("requestId", "return")
    xml(shape, root, operation, found, ignore)


def query_names(shape, prefix=""):
    """Patterns of the parameter names of an input shape, with the shape of each value."""
    out = []
    for name, member in shape.members.items():
        spec = member.serialization
        base = spec.get("name", name)
        own = spec.get("queryName") or base[0].upper() + base[1:]
        out += query_member(member, prefix + own)
    return out


def query_member(member, path):
    if path.count(".") > 12:
        return []
    if member.type_name == "structure":
        return query_names(member, path + ".")
    if member.type_name == "list":
        return query_member(member.member, path + ".#")
    return [(re.compile("^" + re.escape(path).replace(r"\#", r"\d+").replace("#", r"\d+") + "$"), member)]


@lru_cache
def patterns_of(service, operation):
    shape = model(service).operation_model(operation).input_shape
    return query_names(shape) if shape else []


def request(line, found):
    """A recorded request."""
    service, operation = line["service"], line["operation"]
    if operation not in model(service).operation_names:
        found.append(f"request {operation}: {service} has no such operation")
        return
    shape = model(service).operation_model(operation).input_shape
    if service == "ebs":
        direct(line, operation, shape, found)
        return
    if service == "ssm":
        jsn(shape, line["body"], f"request {operation}", found)
        return
    patterns = patterns_of(service, operation)
    params = {name: value for name, value in line["params"].items() if name not in ("Action", "Version")}
    for name, value in params.items():
        member = next((member for pattern, member in patterns if pattern.match(name)), None)
        if member is None:
            found.append(f"request {operation}: the model has no parameter {name}")
        else:
            scalar(member, value, f"request {operation}/{name}", found)
    for name in shape.required_members if shape else []:
        spec = shape.members[name].serialization
        base = spec.get("name", name)
        own = spec.get("queryName") or base[0].upper() + base[1:]
        if not any(given == own or given.startswith(own + ".") for given in params):
            found.append(f"request {operation}: {own} is required, and missing")


def direct(line, operation, shape, found):
    http = line["http"]
    given = {"header": http["headers"], "querystring": http["query"]}
    known = {"header": set(), "querystring": set()}
    for name, member in shape.members.items():
        place = member.serialization.get("location")
        if place in given:
            own = member.serialization["name"]
            own = own.lower() if place == "header" else own
            known[place].add(own)
            if own in given[place]:
                scalar(member, given[place][own], f"request {operation}/{own}", found)
            elif name in shape.required_members:
                found.append(f"request {operation}: {own} is required, and missing")
    for place, names in known.items():
        # by which every SDK tells its version
        for odd in set(given[place]) - names - {"x-amz-user-agent"}:
            found.append(f"request {operation}: the model has no {place} {odd}")
    if "body" in http:
        jsn(shape, http["body"], f"request {operation}", found)


class Judge:
    """Listens to every answer that sessions get."""

    def __init__(self):
        self.found = []
        self.seen = {}

    def watch(self, client):
        service = client.meta.service_model.service_name

        def received(response_dict, operation_model=None, event_name="", **_):
            operation = event_name.rsplit(".", 1)[-1]
            if response_dict is None or response_dict["status_code"] >= 300:
                return
            body = response_dict["body"]
            body = body if isinstance(body, bytes) else b""
            answer(service, operation, response_dict["status_code"], response_dict["headers"], body, self.found)
            self.seen[f"{service}:{operation}"] = self.seen.get(f"{service}:{operation}", 0) + 1

        client.meta.events.register(f"response-received.{service}", received)
        return client
