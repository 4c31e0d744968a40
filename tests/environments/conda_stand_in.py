"""Stands in for micromamba where none can be had: its documented flags over rattler, the solver and installer of pixi.

Started by a Python that has py-rattler; packages come from channels in folders. Also makes such a channel.
"""

import argparse
import asyncio
import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path


def main(words):
    """create and list, as far as they are used; anything else is refused as micromamba would."""
    parser = argparse.ArgumentParser("micromamba")
    verbs = parser.add_subparsers(dest="verb", required=True)
    create = verbs.add_parser("create")
    for flag in ("--dry-run", "--json", "--yes", "--quiet", "--no-deps", "--override-channels"):
        create.add_argument(flag, action="store_true")
    create.add_argument("--prefix", required=True)
    create.add_argument("--channel", action="append", default=[])
    create.add_argument("specs", nargs="*")
    listing = verbs.add_parser("list")
    listing.add_argument("--explicit", action="store_true", required=True)
    listing.add_argument("--prefix", required=True)
    asked = parser.parse_args(words)
    return _list(asked) if asked.verb == "list" else asyncio.run(_create(asked))


async def _create(asked):
    import rattler

    assert asked.yes, "it would ask a question"
    try:
        found = await rattler.solve(
            sources=[rattler.Channel(one) for one in asked.channel],
            specs=[rattler.MatchSpec(one, strict=False) for one in asked.specs],
            platforms=["linux-64", "noarch"],
        )
    except Exception as error:  # noqa: BLE001 - its classes have no public names
        print(json.dumps({"success": False, "solver_problems": [str(error)]}) if asked.json else error)
        return 1
    if asked.no_deps:
        names = {one.split("=")[0] for one in asked.specs}
        assert {one.name.normalized for one in found} <= names, "a package came that was not pinned"
    if asked.dry_run:
        link = [
            {
                "name": one.name.normalized,
                "version": str(one.version),
                "build_string": str(one.build),
                "url": str(one.url),
            }
            for one in found
        ]
        print(json.dumps({"success": True, "dry_run": True, "actions": {"LINK": link, "PREFIX": asked.prefix}}))
        return 0
    await rattler.install(found, target_prefix=asked.prefix, show_progress=False, cache_dir=asked.prefix + "-pkgs")
    return 0


def _list(asked):
    print("@EXPLICIT")
    for path in sorted(Path(asked.prefix, "conda-meta").glob("*.json")):
        print(json.loads(path.read_text())["url"])
    return 0


def make_channel(folder, packages):
    """A channel of packages: (name, version, needs, files), a file being text, or ("link", target)."""
    records = {}
    (folder / "noarch").mkdir(parents=True)
    (folder / "linux-64").mkdir()
    for name, version, needs, files in packages:
        records.update([_package(folder / "noarch", name, version, needs, files)])
    for place, found in (("noarch", records), ("linux-64", {})):
        data = {"info": {"subdir": place}, "packages": found, "packages.conda": {}, "repodata_version": 1}
        (folder / place / "repodata.json").write_text(json.dumps(data))


def _package(folder, name, version, needs, files):
    index = {"name": name, "version": version, "build": "0", "build_number": 0, "depends": needs}
    index.update(subdir="noarch", noarch="generic")
    paths = []
    path = folder / f"{name}-{version}-0.tar.bz2"
    with tarfile.open(path, "w:bz2") as archive:
        for place, text in files.items():
            is_link = isinstance(text, tuple)
            member = tarfile.TarInfo(place)
            data = b"" if is_link else text.encode()
            if is_link:
                member.type, member.linkname = tarfile.SYMTYPE, text[1]
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
            kind = "softlink" if is_link else "hardlink"
            paths.append(
                {
                    "_path": place,
                    "path_type": kind,
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "size_in_bytes": len(data),
                }
            )
        about = {"info/index.json": json.dumps(index), "info/files": "".join(one + "\n" for one in files)}
        about["info/paths.json"] = json.dumps({"paths": paths, "paths_version": 1})
        for place, text in about.items():
            member = tarfile.TarInfo(place)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    data = path.read_bytes()
    sums = {"md5": hashlib.md5(data).hexdigest(), "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return path.name, {**index, **sums}


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    # rattler's own threads end a Python that takes its time to finish.
    os._exit(code)
