"""Joins what the node's image is made of into one CycloneDX document: called by images/sbom.sh.

join prints the document, validate holds one against the schema of its version, count says how much is in it.
Without a time and with a serial number made from the content, so that the same image gives the same bytes.
"""

import argparse
import hashlib
import json
import pathlib
import re
import sys
import uuid

SPEC = "1.5"
# Any fixed one: a serial number is this and the content.
NAMESPACE = uuid.UUID("6d757374-6572-5000-8000-000000000000")


def join(args):
    crates = json.loads(args.crates.read_text().replace(f"path+file://{args.root}/", "muster:"))
    muster = crates["metadata"]["component"]
    muster.pop("components", None)
    muster["purl"] = f"pkg:cargo/muster@{muster['version']}"
    muster["hashes"] = [sha256(args.work / "usr/local/bin/muster")]
    own = [muster, nginx(args), static_musl(), zlib(args)]
    base = packages(args.work)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "version": 1,
        "metadata": {
            "tools": crates["metadata"]["tools"],
            "component": {
                "type": "container",
                "bom-ref": "node",
                "name": "muster/node",
                "version": muster["version"],
                "description": "The node's image: nginx with muster as PID 1",
            },
        },
        "components": own + base + crates["components"],
        "dependencies": [
            {"ref": "node", "dependsOn": [part["bom-ref"] for part in [muster, own[1], *base]]},
            {"ref": own[1]["bom-ref"], "dependsOn": ["static-musl", "zlib"]},
            *linked_with_musl(crates["dependencies"], muster["bom-ref"]),
        ],
    }
    content = json.dumps(document, sort_keys=True)
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(NAMESPACE, content)}"
    json.dump(document, sys.stdout, indent=2, sort_keys=True)
    print()


def linked_with_musl(dependencies, muster):
    return [
        {**line, "dependsOn": [*line.get("dependsOn", []), "static-musl"]} if line["ref"] == muster else line
        for line in dependencies
    ]


def sha256(path):
    return {"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}


def nginx(args):
    """Built from source; the crate that carries it is pinned by its checksum."""
    lock = args.lock.read_text()
    found = re.search(r'name = "nginx-src"\nversion = "([^"]+)\+([^"]+)"\nsource = "[^"]+"\nchecksum = "([0-9a-f]+)"', lock)
    crate, version, checksum = found.groups()
    return {
        "type": "application",
        "bom-ref": "nginx",
        "name": "nginx",
        "version": version,
        "purl": f"pkg:generic/nginx@{version}",
        "cpe": f"cpe:2.3:a:f5:nginx:{version}:*:*:*:*:*:*:*",
        "licenses": [{"license": {"id": "BSD-2-Clause"}}],
        "hashes": [sha256(args.work / "usr/local/bin/nginx")],
        "externalReferences": [
            {
                "type": "distribution",
                "url": f"https://crates.io/crates/nginx-src/{crate}+{version}",
                "hashes": [{"alg": "SHA-256", "content": checksum}],
            }
        ],
    }


def zlib(args):
    """Linked into nginx; known by the crate that carries its source."""
    found = re.search(r'name = "libz-sys"\nversion = "([^"]+)"\nsource = "[^"]+"\nchecksum = "([0-9a-f]+)"', args.lock.read_text())
    version, checksum = found.groups()
    return {
        "type": "library",
        "bom-ref": "zlib",
        "name": "libz-sys",
        "version": version,
        "description": "zlib's source, of which nginx has what compresses",
        "purl": f"pkg:cargo/libz-sys@{version}",
        "licenses": [{"license": {"id": "Zlib"}}],
        "externalReferences": [
            {
                "type": "distribution",
                "url": f"https://crates.io/crates/libz-sys/{version}",
                "hashes": [{"alg": "SHA-256", "content": checksum}],
            }
        ],
    }


def static_musl():
    return {
        "type": "library",
        "bom-ref": "static-musl",
        "name": "musl",
        "description": "Linked into both programs: into muster the one that came with Rust, into nginx the one of musl-gcc",
        "licenses": [{"license": {"id": "MIT"}}],
    }


def packages(work):
    """Those of the base of which any file is still in the image."""
    database = work / "lib/apk/db/installed"
    if not database.exists():
        return []
    release = re.search(r'^VERSION_ID="?([^"\n]+)', (work / "etc/os-release").read_text(), re.M).group(1)
    there = {name.strip().rstrip("/") for name in (work / "files").read_text().splitlines()}
    found = []
    for entry in database.read_text().strip().split("\n\n"):
        fields = [line.split(":", 1) for line in entry.splitlines()]
        about, directory, files = {}, "", []
        for key, value in fields:
            if key == "F":
                directory = value
            elif key == "R":
                files.append(f"{directory}/{value}".lstrip("/"))
            else:
                about.setdefault(key, value)
        if any(file in there for file in files):
            found.append(package(about, release))
    return sorted(found, key=lambda part: part["name"])


def package(about, release):
    name, version = about["P"], about["V"]
    purl = f"pkg:apk/alpine/{name}@{version}?arch={about['A']}&distro=alpine-{release}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "description": about["T"],
        "purl": purl,
        "licenses": [{"license": {"name": about["L"]}}],
    }


def validate(args):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    wrong = JsonStrictValidator(SchemaVersion.from_version(SPEC)).validate_str(args.file.read_text())
    if wrong:
        sys.exit(f"error: {args.file} is no CycloneDX {SPEC}: {wrong}")
    document = json.loads(args.file.read_text())
    known = [part["bom-ref"] for part in [document["metadata"]["component"], *document["components"]]]
    if len(known) != len(set(known)):
        sys.exit("error: two components have one bom-ref")
    lost = {ref for line in document["dependencies"] for ref in [line["ref"], *line.get("dependsOn", [])]} - set(known)
    if lost:
        sys.exit(f"error: depends on what is not listed: {sorted(lost)}")


def count(args):
    purls = [part.get("purl", "") for part in json.loads(args.file.read_text())["components"]]
    crates, base = (sum(purl.startswith(kind) for purl in purls) for kind in ("pkg:cargo/", "pkg:apk/"))
    print(f"{crates} crates, {base} packages of the base, nginx and musl")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    joining = commands.add_parser("join")
    joining.set_defaults(do=join)
    for name in ("crates", "work", "lock", "root"):
        joining.add_argument(f"--{name}", type=pathlib.Path, required=True)
    for name, do in (("validate", validate), ("count", count)):
        command = commands.add_parser(name)
        command.set_defaults(do=do)
        command.add_argument("file", type=pathlib.Path)
    args = parser.parse_args()
    args.do(args)


main()
