"""Names, counts, derivation and changes of the catalogue."""

from pathlib import Path

import pytest

from taicang import catalog
from taicang.catalog import schema
from taicang.catalog.build import machine_of
from taicang.catalog.resolve import resolve
from taicang.errors import InvalidInput, MissingFigure, NotModelled, UnitError, UnknownName


@pytest.mark.parametrize("kind", ["chip", "machine", "stack"])
def test_every_entry_loads_or_names_the_figure_that_is_missing(kind: str) -> None:
    build = {"chip": catalog.chip, "machine": catalog.machine, "stack": catalog.stack}[kind]
    for name in catalog.names(kind):
        assert catalog.entry(kind, name).title
        missing: MissingFigure | None = None
        try:
            assert build(name).name
        except MissingFigure as error:
            missing = error
        if missing is not None:
            assert missing.entry == name
            assert catalog.entry(kind, name).figure(missing.key).kind == "unknown"


def test_catalogue_is_sound() -> None:
    assert catalog.check() == []


def test_machines_of_which_little_is_public_say_what_to_supply() -> None:
    with pytest.raises(MissingFigure, match=r"sugon-scalex640: no public figure for chip; .*--set chip=VALUE"):
        catalog.machine("sugon-scalex640")


def test_a_missing_figure_can_be_supplied() -> None:
    machine = catalog.machine(
        "alibaba-panjiu-al128",
        (
            "chip=h20",
            "chips_per_node=16",
            "planes.scale_up.cabinet.bandwidth=400 GB/s",
            "planes.scale_up.cabinet.latency=2 us",
        ),
    )
    assert (machine.ranks, machine.chip.name) == (128, "h20-96g")


def test_bins_of_the_910b_are_known_as_drivers_print_them():
    for bin_, cores, gigabytes in (("2", 24, 64), ("3", 20, 64), ("4", 20, 32), ("4-1", 20, 64)):
        for name in (f"910B{bin_}", f"Ascend910B{bin_}", f"ascend-910b{bin_}", f"huawei-910b{bin_}"):
            chip = catalog.chip(name)
            assert (chip.cores, round(chip.memory.capacity_bytes / 2**30 / 32) * 32) == (cores, gigabytes), name


def test_a_chip_given_for_a_machine_says_which_machines_have_it() -> None:
    for chip, machine in (("h20-3e", "hgx-h20-141g"), ("v100", "dgx-v100"), ("310p", "atlas-300i-duo-4")):
        with pytest.raises(InvalidInput, match=f"is a chip; machines that have it: .*{machine}"):
            catalog.machine(f"{chip} x 2")
    for chip in catalog.names("chip"):
        for machine in catalog.machines_with(chip):
            assert catalog.entry("machine", machine).figure("chip.vendor").value


def test_a_chip_without_bf16_runs_it_in_fp16() -> None:
    chip = catalog.chip("v100")
    assert chip.peak("bf16") == chip.peak("fp16") == 125e12
    with pytest.raises(NotModelled, match="no fp8"):
        chip.peak("fp8")


def test_aliases_ignore_case() -> None:
    assert catalog.machine("Atlas-900-A3-SuperPoD") == catalog.machine("cloudmatrix384")
    assert catalog.chip("910C").name == "ascend-910c-752t"


@pytest.mark.parametrize("spec", ["hgx-h100 x 4", "hgx-h100 x4", "hgx-h100x4", "hgx-h100 × 4", "DGX-H100 X 4".lower()])
def test_count(spec: str) -> None:
    one, four = catalog.machine("hgx-h100"), catalog.machine(spec)
    assert four.name == "hgx-h100 x 4"
    assert [(level.name, level.ranks) for level in one.plane("scale_up").levels] == [("nvlink", 8)]
    assert [(level.name, level.ranks) for level in four.plane("scale_up").levels] == [("nvlink", 8), ("scale_out", 32)]
    assert four.power_w == 4 * one.power_w


def test_names_with_an_x_are_no_counts() -> None:
    assert catalog.machine("mi300x-8").chips == 8
    assert catalog.machine("mi300x-8 x 2").chips == 16


def test_two_supernodes_meet_on_the_scale_out_network() -> None:
    levels = catalog.machine("cloudmatrix384 x 2").plane("scale_up").levels
    assert [(level.name, level.ranks) for level in levels] == [
        ("package", 2),
        ("node", 16),
        ("supernode", 768),
        ("scale_out", 1536),
    ]
    assert levels[-1].bandwidth_bytes_per_s == 25e9


def test_a_slice_scales_power_price_and_memory() -> None:
    whole, part = catalog.machine("cloudmatrix384"), catalog.machine("cloudmatrix384", ("chips=96",))
    assert part.ranks == 192
    assert part.plane("scale_up").levels[-1].ranks == 192
    for field in ("power_w", "price_usd", "host_memory_bytes"):
        assert getattr(part, field) == pytest.approx(getattr(whole, field) / 4)
    for key in ("price.cny", "price.usd"):  # a quarter of every reading, not of the one that stands first
        both = [catalog.entry("machine", "cloudmatrix384", sets).figure(key) for sets in ((), ("chips=96",))]
        all_of, quarter = ([each.value, *(other.value for other in each.conflicts)] for each in both)
        assert len(all_of) > 1
        assert quarter == pytest.approx([value / 4 for value in all_of])
    told = catalog.entry("machine", "cloudmatrix384", ("chips=96",)).figure("power.load")
    assert (told.kind, told.note) == ("assumed", "scaled from 384 to 96 chips")


def test_sets_change_one_figure() -> None:
    plain, fast = catalog.machine("hgx-h100"), catalog.machine("hgx-h100", ('chip.memory.bandwidth="4 TB/s"',))
    assert fast.chip.memory.bandwidth_bytes_per_s == 4e12
    assert fast.chip.memory.capacity_bytes == plain.chip.memory.capacity_bytes
    assert catalog.chip("h100", ("memory.bandwidth=4 TB/s",)) == catalog.chip("h100", ("chip.memory.bandwidth=4 TB/s",))
    assert (
        catalog.machine("hgx-h100", ("planes.scale_up.nvlink.latency=2us",)).plane("scale_up").levels[0].latency_s
        == 2e-6
    )


def test_another_chip_drops_changes_to_the_old_one() -> None:
    swapped = catalog.machine("hgx-h100", ("chip.memory.bandwidth=9 TB/s", "chip=h200"))
    assert swapped.chip.memory.bandwidth_bytes_per_s == 4.8e12


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("chip.memory.bandwith=4 TB/s", UnknownName, r"--set: .*did you mean chip\.memory\.bandwidth"),
        ("planes.scale_up.nvlnk.latency=1 us", UnknownName, r"did you mean planes\.scale_up\.nvlink\.latency"),
        ("chip.memory.bandwidth=4", UnitError, r"--set chip\.memory\.bandwidth: .*has no unit"),
        ("chip.memory.bandwidth=4 TB", UnitError, "is a unit of bytes, expected one of bytes_per_s"),
        ("chip.memory=64 GB", InvalidInput, "is a section"),
        ("chips=-1", InvalidInput, "whole number"),
        ("chips=3.5", InvalidInput, "whole number"),
        ("chips", InvalidInput, "expected KEY=VALUE"),
        ("chip.power.tdp=.inf W", UnitError, "cannot read"),
        ("pue=.nan", InvalidInput, "positive number"),
        ("status=sold", UnknownName, "unknown status"),
    ],
)
def test_bad_sets_are_refused(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        catalog.machine("hgx-h100", (text,))


def test_unknown_names_suggest() -> None:
    with pytest.raises(UnknownName, match="did you mean cloudmatrix384"):
        catalog.machine("cloudmatrx384")
    with pytest.raises(UnknownName, match="did you mean"):
        catalog.machine("hgx-h1000 x 4")
    with pytest.raises(UnknownName, match="did you mean ascend-910"):
        catalog.chip("ascend-910d")
    with pytest.raises(InvalidInput, match="a number of units of at least 1"):
        catalog.machine("hgx-h100 x 0")


def test_derived_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "base: cloudmatrix384\ntitle: Faster\nchip: {base: ascend-910c-752t, memory: {bandwidth: 2 TB/s}}\n"
        "planes: {scale_up: {supernode: {latency: 1 us}}, vpc: none}\n"
    )
    machine = catalog.machine(str(mine))
    assert machine.chip.memory.bandwidth_bytes_per_s == 2e12
    assert machine.plane("scale_up").levels[-1].latency_s == 1e-6
    assert "vpc" not in machine.planes
    assert machine.power_w == 559e3
    assert catalog.check(str(mine)) == []
    assert catalog.find(str(mine)) == "machine"


def test_derived_chip_file_beside_the_machine(tmp_path: Path) -> None:
    (tmp_path / "chip.yaml").write_text("base: h20\nmemory: {capacity: 141 GB}\n")
    (tmp_path / "m.yaml").write_text("base: hgx-h20\nchip: ./chip.yaml\n")
    assert catalog.machine(str(tmp_path / "m.yaml")).chip.memory.capacity_bytes == 141e9


def test_stacks() -> None:
    assert catalog.stack("vllm@0.19.0").epoch == "2026-04"
    assert catalog.stack("vllm").version == "0.21.0"
    assert catalog.stack("vllm@0.18.4").name == "vllm@0.18.0 (nearest to 0.18.4)"
    assert catalog.stack("vllm@0.1").version == "0.6.5"
    assert catalog.stack("vllm@nightly-5b8c30d").version == "0.21.0"
    assert catalog.stack("trtllm@1.0.0rc3").version == "1.0.0"
    assert catalog.stack("trtllm@0.8.1.post1").version == "1.2.0"
    assert catalog.stack("cloudmatrix-infer").scheduler == "disaggregated"
    with pytest.raises(UnknownName, match="did you mean vllm"):
        catalog.stack("vlm")
    with pytest.raises(InvalidInput, match="cannot read 'fast' as a version"):
        catalog.stack("vllm@fast")


def test_provenance_and_conflicts() -> None:
    entry = catalog.entry("machine", "cloudmatrix384")
    load = entry.figure("power.load")
    assert (load.value, load.source, load.kind) == (559e3, "semi", "published")
    assert 719.2e3 in {other.value for other in load.conflicts}
    assert entry.figure("chip.peak.bf16").conflicts[0].value == 376e12
    assert "chip.power.tdp" in entry.unknowns
    assert {figure.source for figure in entry.figures} - {""} <= set(catalog.sources())


def test_digest_is_stable() -> None:
    assert catalog.digest() == catalog.digest()
    assert len(catalog.digest()) == 64


def test_several_units_of_a_supernode_are_joined_by_a_network_of_their_own_or_refused(tmp_path: Path) -> None:
    for name in catalog.names("machine"):
        try:
            several = catalog.machine(f"{name} x 12")
        except MissingFigure:
            continue
        one = catalog.machine(name)
        assert several.domain <= one.ranks, name
        assert several.plane("scale_up").levels[-1].behind_adapters, name
    alone = tmp_path / "alone.yaml"
    alone.write_text("base: cloudmatrix384\nplanes: {scale_up: {scale_out: none, supernode: {ranks: all}}}\n")
    with pytest.raises(MissingFigure, match=r"planes\.scale_up\.scale_out\.bandwidth"):
        machine_of(resolve("machine", str(alone)), 2)
    wire = {"ranks": "all", "bandwidth": "25 GB/s", "latency": "5 us", "topology": "clos"}
    sets = [f"planes.scale_up.scale_out.{key}={value}" for key, value in wire.items()]
    assert machine_of(resolve("machine", str(alone), sets), 2).domain == 768


@pytest.mark.parametrize(
    ("spec", "name", "chips"),
    [
        ("8x H100", "hgx-h100", 8), ("16xh200", "hgx-h200 x 2", 16), ("4x L40S", "l40s-pcie", 4),
        ("2 x NVIDIA RTX 4090", "rtx-4090-pcie", 2), ("2x hgx-a100", "hgx-a100 x 2", 16),
        ("Atlas 800I A2", "atlas-800-a2-280t", 8), ("p5.48xlarge", "hgx-h100", 8),
        ("Standard_ND96isr_H200_v5", "hgx-h200", 8), ("a3-megagpu-8g x 2", "hgx-h100 x 2", 16),
    ],
)  # fmt: skip
def test_machines_as_people_name_them(spec, name, chips):
    made = catalog.machine(spec)
    assert (made.name, made.chips) == (name, chips)
    assert made.plane("scale_up").levels[0].ranks <= chips
    assert catalog.entry("machine", spec).figure("chip.vendor").value


def test_chips_that_fill_no_whole_number_of_machines_are_refused():
    with pytest.raises(InvalidInput, match="12 chips are no whole number of hgx-h100"):
        catalog.machine("12x h100")


SAID = {
    "count": (7, 7), "s": ("7 us", 7e-6), "bytes": ("7 MB", 7e6), "ratio": (0.7, 0.7), "name": ("nccl", "nccl"),
    "words": (["one"], frozenset({"one"})),
}  # fmt: skip
"""Type of a key -> what a file says and what its field is then."""


@pytest.mark.parametrize(("stem", "keys"), [("", schema.STACK), ("memory", schema.MEMORY), ("keeps", schema.KEEPS)])
def test_every_field_of_a_stack_is_a_key_of_its_file(stem: str, keys: dict[str, schema.Key], tmp_path: Path) -> None:
    plain, more = catalog.stack("vllm@0.9.0"), "" if stem != "memory" else "base: device, "
    for key, (field, type_) in keys.items():
        now = getattr(getattr(plain, stem) if stem else plain, field)
        choices = [each for each in schema.CHOICES.get(type_, ()) if each != now]
        raw, wanted = (choices[0],) * 2 if choices else SAID.get(type_, (not now, not now))
        if key in ("engine", "base"):
            raw = wanted = now
        told = f"{{value: {raw if not isinstance(raw, bool) else str(raw).lower()}, kind: assumed, source: user}}"
        path = tmp_path / f"{key}.yaml"
        path.write_text(f"base: vllm@0.9.0\n{stem}: {{{more if key != 'base' else ''}{key}: {told}}}\n" if stem else
                        f"base: vllm@0.9.0\n{key}: {told}\n")  # fmt: skip
        made = catalog.stack(str(path))
        assert getattr(getattr(made, stem) if stem else made, field) == wanted, key
    path = tmp_path / "wrong.yaml"
    path.write_text("base: vllm@0.9.0\nkeeps: {sharding: nobody}\n")
    with pytest.raises(UnknownName, match="own, deepspeed"):
        catalog.stack(str(path))
