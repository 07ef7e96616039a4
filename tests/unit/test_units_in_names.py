"""House rule: a dataclass field that holds a float says its unit in its name."""

import dataclasses
import importlib
import pkgutil
import re

import taicang

SUFFIXES = (
    "_s", "_bytes", "_bytes_per_s", "_flop", "_flop_per_s", "_w", "_j", "_usd", "_cny", "_tokens", "_ratio", "_hz",
    "_per_s", "_per_byte", "_per_chip", "_per_rank", "_per_w", "_per_j",
)  # fmt: skip
# whole words that are their own unit
# (skew, shared_power: exponents of power laws; repeats, launches: how often)
WORDS = {"seconds", "flop", "tokens", "sequences", "skew", "shared_power", "repeats", "launches"}
# a value whose unit is a field beside it, or in the name of the field that holds it
BESIDE = {
    *((name, side) for name in ("Outcome", "Compared") for side in ("measured", "predicted")),
    ("Published", "value"), ("Fact", "value"), ("Constant", "was"), ("Constant", "now"),
    *((name, end) for name in ("Result", "Figure", "Band", "Swing") for end in ("low", "mid", "value", "high")),
}  # fmt: skip


def dataclasses_of_the_package():
    for module in pkgutil.walk_packages(taicang.__path__, "taicang."):
        if module.name == "taicang.__main__":
            continue
        try:
            loaded = importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if str(error.name).startswith("taicang"):
                raise
            continue  # of an extra that is not installed
        for value in vars(loaded).values():
            if dataclasses.is_dataclass(value) and isinstance(value, type) and value.__module__ == module.name:
                yield value


def test_float_fields_have_a_unit_suffix():
    wrong = []
    for cls in dataclasses_of_the_package():
        for field in dataclasses.fields(cls):
            if not re.search(r"\b(float|Num)\b", str(field.type)) or re.search(
                r"Mapping|Callable|tuple|str|list", str(field.type)
            ):
                continue
            if (cls.__name__, field.name) in BESIDE:
                continue
            if field.name not in WORDS and not field.name.endswith(SUFFIXES):
                wrong.append(f"{cls.__module__}.{cls.__name__}.{field.name}: {field.type}")
    assert not wrong, "\n".join(wrong)


def test_the_rule_would_catch_a_bare_float():
    @dataclasses.dataclass
    class Bad:
        bandwidth: float

    (field,) = dataclasses.fields(Bad)
    assert not field.name.endswith(SUFFIXES)
