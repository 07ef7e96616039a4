"""Sizes of a machine lie in each other, and the check says so of any two that do not."""

from itertools import combinations

import pytest

from taicang import catalog
from taicang.catalog.build import chip_part
from taicang.catalog.check import SIZES
from taicang.catalog.resolve import names, resolve

MACHINES = [name for name in names("machine") if resolve("machine", name).get("chips_per_node")]


def dies_of(name: str) -> int:
    """Ranks of a chip."""
    return int(chip_part(resolve("machine", name)).get("dies") or 1)


def sizes(name: str) -> dict[str, int]:
    """Keys of the entry that are sizes, in ranks."""
    found, dies = resolve("machine", name), dies_of(name)
    made = {key: int(found.get(key)) * dies for key in SIZES if found.get(key)}
    ranks = [path for path in found.leaves if path.startswith("planes.") and path.endswith(".ranks")]
    return made | {path: int(found.get(path)) for path in ranks if found.get(path) != "all"}


def written(folder, name: str, key: str, value: int) -> str:
    """A file of one's own that says something else of ``key``."""
    path = folder / "mine.yaml"
    nested = ": {".join(key.split("."))
    path.write_text(f"base: {name}\n{nested}: {value}{'}' * key.count('.')}\naggregate: none\nfacts: none\n")
    return str(path)


@pytest.mark.parametrize("name", MACHINES)
def test_a_size_that_does_not_nest_is_found_at_its_key(name, tmp_path):
    known, dies = sizes(name), dies_of(name)
    for key, other in combinations(known, 2):
        for changed, kept in ((key, other), (other, key)):
            odd = known[kept] + dies * (1 + (known[kept] // dies) % 2)  # larger, no multiple of it
            if odd % known[kept] == 0:
                continue
            value = odd // dies if changed in SIZES else odd
            findings = catalog.check(written(tmp_path, name, changed, value))
            mine = [each for each in findings if each.key == changed and f" of {kept}:" in each.problem]
            assert mine, (changed, kept, value, findings)
            assert all(each.entry.endswith("mine.yaml:2") for each in mine)


@pytest.mark.parametrize("name", MACHINES)
def test_nothing_is_larger_than_the_machine(name, tmp_path):
    known, dies = sizes(name), dies_of(name)
    for key in (each for each in known if each != "chips"):
        twice = 2 * known["chips"]
        findings = catalog.check(written(tmp_path, name, key, twice // dies if key in SIZES else twice))
        assert any(each.key == key and "more than the machine has" in each.problem for each in findings), key
