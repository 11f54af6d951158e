"""Holds recorded requests of Azure's Resource Manager and of page blobs against what its packages say of them
(`azure_contract.py`): paths, versions, parameters, headers, and every member of a body."""

import json
import re
import sys
from datetime import datetime
from functools import lru_cache
from pathlib import Path

# the SAS is the service's own, and comes as it is; so does the address of a list's next page
SAS = {"sv", "sr", "si", "sig", "se", "sp", "spr", "st", "skoid", "sktid", "skt", "ske", "sks", "skv"}
NEXT = {"$skiptoken"}
# what an HTTP client sends by itself
TRANSPORT = {"accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host", "user-agent"}
# lists that the provider says are not kept up
OPEN = {"VirtualMachineSizeTypes"}


@lru_cache
def contracts():
    return json.loads((Path(sys.prefix) / "contract" / "contract.json").read_text())


@lru_cache
def resource_manager():
    """(method, pattern of paths, operation, its contract)"""
    out = []
    for contract in contracts():
        for it in contract["operations"]:
            if it["version"]:
                pattern = "/".join("[^/]+" if part.startswith("{") else re.escape(part) for part in it["path"].split("/"))
                out.append((it["method"], re.compile(f"^{pattern}$"), it, contract))
    return out


@lru_cache
def blobs():
    return [it for contract in contracts() for it in contract["operations"] if not it["version"]]


def fits(given, known, place, path, found, ignored=()):
    """Parameters or headers against those of an operation."""
    known = {name.lower(): it for name, it in known.items()}
    given = {name.lower(): value for name, value in given.items()}
    for name, value in given.items():
        if name in known:
            words = known[name]["words"]
            if words and value not in words:
                found.append(f"{path}: {place} {name} is {value!r}, not one of {words}")
        elif name not in ignored:
            found.append(f"{path}: there is no {place} {name}")
    for name, it in known.items():
        if it["required"] and name not in given and name not in TRANSPORT:
            found.append(f"{path}: the {place} {name} is required, and missing")


def scalar(it, value, path, contract, found):
    kind, known = it["type"], {"str": str, "int": int, "bool": bool, "float": (int, float), "iso-8601": str, "object": object}
    if kind in contract["models"]:
        structure(contract["models"][kind], value, path, contract, found)
        return
    if kind not in known:
        found.append(f"{path}: is a {kind}, which the judge does not know")
    elif not isinstance(value, known[kind]) or (kind in ("int", "float") and isinstance(value, bool)):
        found.append(f"{path}: {value!r} is no {kind}")
    elif kind == "iso-8601":
        try:
            datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError as why:
            found.append(f"{path}: {value!r} is no time: {why}")
    else:
        words = contract["enums"].get(it["words"]) if it["words"] not in OPEN else None
        if words and value not in words:
            found.append(f"{path}: {value!r} is none of {words}")
        if "pattern" in it and not re.search(it["pattern"], value):
            found.append(f"{path}: {value!r} is not like {it['pattern']}")
        if len(value) > it.get("max_length", sys.maxsize) if isinstance(value, str) else False:
            found.append(f"{path}: has more than {it['max_length']} characters")
        if isinstance(value, (int, float)) and not it.get("minimum", value) <= value <= it.get("maximum", value):
            found.append(f"{path}: {value} is out of bounds")


def member(it, value, path, contract, found):
    if it["readonly"]:
        found.append(f"{path}: is for the service to say")
    elif it["container"] == "[":
        if not isinstance(value, list):
            found.append(f"{path}: is no list")
            return
        for index, inner in enumerate(value):
            scalar(it, inner, f"{path}[{index}]", contract, found)
    elif it["container"] == "{":
        if not isinstance(value, dict):
            found.append(f"{path}: is no map")
            return
        for name, inner in value.items():
            # an empty model is an empty object; a null takes an entry away
            if inner is not None:
                scalar(it, inner, f"{path}/{name}", contract, found)
    else:
        scalar(it, value, path, contract, found)


def structure(members, value, path, contract, found):
    """An object against a model, whose members may have names with dots: what is within an inner object."""
    if not isinstance(value, dict):
        found.append(f"{path}: is no object")
        return
    for name, inner in value.items():
        within = {key.removeprefix(f"{name}."): it for key, it in members.items() if key.startswith(f"{name}.")}
        if name in members:
            member(members[name], inner, f"{path}/{name}", contract, found)
        elif within:
            structure(within, inner, f"{path}/{name}", contract, found)
        else:
            found.append(f"{path}/{name}: the model has no such member")
    for name, it in members.items():
        # of an inner object that is left out nothing is required but where it is needed to create
        if it["required"] and not it["readonly"] and "." not in name and name not in value:
            found.append(f"{path}/{name}: is required, and missing")


def arm(line, found):
    path, query = "/" + line["path"].strip("/"), line["query"]
    if "/locations/" in path:
        return  # the address of an operation is the service's own
    here = [it for it in resource_manager() if it[0] == line["method"] and it[1].match(path)]
    name = f"request {line['operation']}"
    spoken = [it for it in here if it[2]["version"] == query.get("api-version")]
    if not spoken:
        versions = sorted({it[2]["version"] for it in here})
        found.append(f"{name}: {line['method']} {path} of version {query.get('api-version')}: there is none, but of {versions}")
        return
    _, _, operation, contract = spoken[0]
    fits(query, operation["query"], "parameter", name, found, NEXT)
    fits(line["headers"], operation["headers"], "header", name, found, TRANSPORT)
    body = operation["body"]
    if (body is not None) != ("body" in line):
        found.append(f"{name}: a body is {'missing' if body else 'there, and none is known'}")
    elif body:
        structure(contract["models"][body], line["body"], name, contract, found)


def blob(line, found):
    """A request for a blob fits if one of the operations of its method and `comp` finds nothing."""
    name = f"request {line['operation']}"
    tried = []
    for operation in (it for it in blobs() if it["method"] == line["method"]):
        words = operation["query"].get("comp", {}).get("words")
        if (words or [None])[0] != line["query"].get("comp") or "restype" in operation["query"]:
            continue
        odd = []
        fits(line["query"], operation["query"], "parameter", name, odd, SAS)
        # the package sends the body's own headers by others
        fits(line["headers"], operation["headers"], "header", name, odd, TRANSPORT | {"range"})
        tried.append(odd)
    found += min(tried, key=len, default=[f"{name}: there is none"])


def request(line, found):
    if line["service"] == "azure-arm":
        arm(line, found)
    elif line["service"] == "azure-blob":
        blob(line, found)
