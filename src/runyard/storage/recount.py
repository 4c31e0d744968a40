"""The catalog made right from the bucket's listing, and small packs made into larger ones."""

import logging
from typing import Callable, Dict, List

from runyard.errors import IntegrityError, UserErrorException
from runyard.storage.catalog import Catalog, Place
from runyard.storage.objects import ObjectService
from runyard.storage.packed import PACK_BYTES, make_pack, pack_key, read_index
from runyard.storage.parallel import in_parallel

#: Packs below this size are merged once there are so many of them, bytes and count.
SMALL_PACK, MERGE_COUNT = 4 << 20, 64
#: Objects that are noted at once.
BATCH = 10_000

_log = logging.getLogger("runyard.store")


def recount(service: ObjectService, catalog: Catalog, prefix: str, digest_of: Callable[[str], str]) -> None:
    """Note what the bucket has and the catalog does not, and forget what it has no more: one request per 1,000."""
    known = catalog.objects()
    seen, new = set(), []
    for one in service.list(prefix):
        try:
            digest = digest_of(one.key)
        except UserErrorException:
            _log.warning("the artifact store has an object that is not ours: %s", one.key[:200])
            continue
        seen.add(digest)
        if digest not in known:
            new.append((digest, one.size_bytes))
        if len(new) >= BATCH:
            catalog.add_objects(new)
            new = []
    catalog.add_objects(new)
    catalog.forget(known - seen)
    _recount_packs(service, catalog)
    catalog.set_fact("listed", "1")


def _recount_packs(service: ObjectService, catalog: Catalog) -> None:
    known = catalog.packs()
    sizes = {one.key.rpartition("/")[2]: one.size_bytes for one in service.list(pack_key(""))}

    def read(name: str) -> None:
        try:
            places = read_index(name, sizes[name], lambda start, size: service.get(pack_key(name), start, size))
        except (IntegrityError, UserErrorException, ValueError) as error:
            _log.error("%s", error)
            return
        catalog.add_pack(name, sizes[name], places)

    in_parallel(read, [name for name in sizes if name not in known])
    gone = [name for name in known if name not in sizes]
    # What two servers stored lies in two packs, of which one is noted.
    has_lost = any(catalog.in_pack(name) for name in gone)
    for name in gone:
        catalog.forget_pack(name)
    if has_lost:
        in_parallel(read, [name for name in sizes if name in known])


def merge_packs(service: ObjectService, catalog: Catalog, read: Callable[[List[Place]], Dict[str, bytes]]) -> int:
    """Make many small packs into few; returns how many are gone. The new one is there before the old ones go."""
    small = sorted(name for name, size in catalog.packs().items() if size < SMALL_PACK)
    if len(small) < MERGE_COUNT:
        return 0
    merged: List[str] = []
    places: List[Place] = []
    for name in [*small, ""]:
        here = catalog.in_pack(name) if name else []
        if places and (not name or sum(one.size_bytes for one in [*places, *here]) > PACK_BYTES):
            made, data, found = make_pack(read(places))
            service.put(pack_key(made), data)
            catalog.add_pack(made, len(data), found)
            places = []
        places += here
        if name:
            merged.append(name)
    for name in merged:
        if catalog.in_pack(name):
            continue
        service.delete([pack_key(name)])
        catalog.forget_pack(name)
    return len(merged)
