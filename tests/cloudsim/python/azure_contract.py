"""What Microsoft says a request of Azure's must look like, for those versions of its interfaces that we speak.

The packages of its SDK are made from its specifications, one package from those of one or several versions: here their
source is read, nothing of it is run, and what it says of paths, versions, parameters, headers and bodies is kept as JSON.

    azure_contract.py FOLDER     fetches the packages and writes FOLDER/contract.json
"""

import ast
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

# package, the folders of the versions that it is asked for, and what we speak in them
SOURCES = [
    ("azure-mgmt-compute==34.1.0", ["v2024_03_02/", "v2024_11_01/"]),  # disks, snapshots; machines, restore points
    ("azure-mgmt-compute==37.0.0", [""]),  # galleries 2024-03-03
    ("azure-mgmt-compute==39.0.0", [""]),  # immutability of snapshots 2026-03-02
]
BLOBS = "azure-storage-blob==12.31.1"
DATE = re.compile(r"^20\d\d-\d\d-\d\d$")


def fetch(folder, package):
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package],
        check=True, stdout=sys.stderr,
    )
    name, version = package.split("==")
    return zipfile.ZipFile(next(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl")))


def text(node):
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def called(node, name):
    """The names of functions that begin with `name` and are called within a node."""
    calls = (it.func.id for it in ast.walk(node) if isinstance(it, ast.Call) and isinstance(it.func, ast.Name))
    return [it for it in calls if it.startswith(name)]


def builder(function):
    """What a function that builds a request says of it: `None` where it builds none."""
    made = [it for it in ast.walk(function) if isinstance(it, ast.Call) and getattr(it.func, "id", "") == "HttpRequest"]
    if not made:
        return None
    out = {"method": next(text(it.value) for it in made[0].keywords if it.arg == "method"), "query": {}, "headers": {}}
    out["path"] = next((text(it) for it in ast.walk(function) if (text(it) or "").startswith("/")), "")
    out["version"] = next((text(it) for it in ast.walk(function) if DATE.match(text(it) or "")), None)
    optional = {id(inner) for it in ast.walk(function) if isinstance(it, ast.If) for inner in ast.walk(it)}
    words = {}
    for it in ast.walk(function):
        # comp: Literal["page"] = ...
        if isinstance(it, ast.AnnAssign) and isinstance(it.target, ast.Name) and "Literal[" in ast.unparse(it.annotation):
            words[it.target.id] = [text(word) for word in ast.walk(it.annotation) if text(word)]
    for it in ast.walk(function):
        if isinstance(it, ast.Assign) and isinstance(it.targets[0], ast.Subscript):
            place = {"_params": "query", "_headers": "headers"}.get(getattr(it.targets[0].value, "id", ""))
            name = text(it.targets[0].slice)
            if place and name:
                given = [inner.id for inner in ast.walk(it.value) if isinstance(inner, ast.Name)]
                allowed = next((words[inner] for inner in given if inner in words), None)
                out[place][name] = {"required": id(it) not in optional, "words": allowed}
    return out


def operations(tree):
    """Requests by the operations that send them; the body's model where there is one."""
    builders = {it.name: builder(it) for it in tree.body if isinstance(it, ast.FunctionDef) and it.name.startswith("build_")}
    bodies, names = {}, {}
    for group in (it for it in tree.body if isinstance(it, ast.ClassDef)):
        for method in (it for it in group.body if isinstance(it, ast.FunctionDef)):
            for name in called(method, "build_"):
                names.setdefault(name, f"{group.name.removesuffix('Operations')}.{method.name.strip('_').removesuffix('_initial')}")
                for argument in method.args.args + method.args.kwonlyargs:
                    model = re.search(r"_models\.(\w+)", ast.unparse(argument.annotation) if argument.annotation else "")
                    if model and "IO[bytes]" in ast.unparse(argument.annotation):
                        bodies[name] = model.group(1)
    for name, it in builders.items():
        if it:
            yield {**it, "name": names.get(name, name), "body": bodies.get(name)}


def shape(annotation):
    """A type as it is written, as (container, type, words): `Optional[list["_models.A"]]`."""
    plain = annotation.replace('"', "").replace("'", "")
    inner = re.sub(r"^Optional\[(.*)\]$", r"\1", plain)
    container = ""
    for start, mark in (("list[", "["), ("List[", "["), ("dict[str, ", "{"), ("Dict[str, ", "{")):
        if inner.startswith(start):
            container, inner = mark, inner[len(start):-1]
            break
    words = re.match(r"^Union\[str, _models\.(\w+)\]$", inner)
    model = re.match(r"^_models\.(\w+)$", inner)
    if words:
        return container, "str", words.group(1)
    return container, model.group(1) if model else {"datetime.datetime": "iso-8601", "Any": "object"}.get(inner, inner), None


def newer(group):
    """The members of a model, as `rest_field`s say."""
    for it in group.body:
        made = it.value if isinstance(it, ast.AnnAssign) and isinstance(it.value, ast.Call) else None
        if made is None or getattr(made.func, "id", "") not in ("rest_field", "rest_discriminator"):
            continue
        said = {word.arg: word.value for word in made.keywords}
        visible = ast.literal_eval(said["visibility"]) if "visibility" in said else ["create"]
        annotation = ast.unparse(it.annotation)
        container, kind, words = shape(annotation)
        yield text(said.get("name")) or it.target.id, {
            "container": container, "type": kind, "words": words, "readonly": visible == ["read"],
            "required": not annotation.startswith("Optional["),
        }


def older(group):
    """The members of a model, as its `_attribute_map` says; the names of inner ones have dots."""
    constants = {}
    for it in group.body:
        if isinstance(it, ast.Assign) and isinstance(it.targets[0], ast.Name) and it.targets[0].id in ("_attribute_map", "_validation"):
            constants[it.targets[0].id] = ast.literal_eval(it.value)
    start = next((it for it in group.body if isinstance(it, ast.FunctionDef) and it.name == "__init__"), None)
    arguments = start.args.args + start.args.kwonlyargs if start else []
    annotations = {it.arg: ast.unparse(it.annotation) for it in arguments if it.annotation}
    for own, said in constants.get("_attribute_map", {}).items():
        kind, rules = said["type"], constants.get("_validation", {}).get(own, {})
        container = kind[0] if kind[0] in "[{" else ""
        _, _, words = shape(annotations.get(own, ""))
        yield said["key"], {
            "container": container, "type": kind.strip("[]{}"), "words": words, "readonly": rules.get("readonly", False),
            "required": rules.get("required", False), **{name: rules[name] for name in ("pattern", "max_length", "minimum", "maximum") if name in rules},
        }


def models(tree):
    out = {}
    for group in (it for it in tree.body if isinstance(it, ast.ClassDef)):
        bases = [ast.unparse(it).split(".")[-1] for it in group.bases]
        members = {**dict(older(group)), **dict(newer(group))}
        for base in bases:
            # newer models inherit their members, older ones repeat them
            members = {**out.get(base, {}), **members}
        out[group.name] = members
    return out


def enums(tree):
    out = {}
    for group in (it for it in tree.body if isinstance(it, ast.ClassDef)):
        out[group.name] = [text(it.value) for it in group.body if isinstance(it, ast.Assign) and text(it.value)]
    return out


def sources(wheel, start, *ends):
    """The files of a package in a folder whose names end so, parsed."""
    names = [it for it in wheel.namelist() if it.startswith(start) and it.endswith(ends)]
    assert names, f"{wheel.filename} has nothing at {start}"
    return [ast.parse(wheel.read(it)) for it in names]


def merged(found):
    return {name: it for one in found for name, it in one.items()}


def contracts(folder):
    for package, versions in SOURCES:
        wheel = fetch(folder, package)
        for version in versions:
            at = f"azure/mgmt/compute/{version}"
            yield {
                "package": package,
                "operations": [it for tree in sources(wheel, f"{at}operations/", "_operations.py") for it in operations(tree)],
                "models": merged(map(models, sources(wheel, f"{at}models/", "/_models_py3.py", "/_models.py"))),
                "enums": merged(map(enums, sources(wheel, f"{at}models/", "_enums.py"))),
            }
    wheel = fetch(folder, BLOBS)
    trees = sources(wheel, "azure/storage/blob/_generated/operations/", "/_blob_operations.py", "/_page_blob_operations.py")
    yield {"package": BLOBS, "operations": [it for tree in trees for it in operations(tree)], "models": {}, "enums": {}}


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    (place / "contract.json").write_text(json.dumps(list(contracts(place))))
