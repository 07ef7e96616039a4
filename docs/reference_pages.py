"""Reference pages that are written from the code and its data files."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import claims_page
import click
import python_page
import yaml

from taicang.app.main import cli
from taicang.catalog import calibration, entry, files, names, schema, trust
from taicang.catalog.models import model, model_names, not_modelled
from taicang.evidence.suites import sources
from taicang.formats import FORMATS
from taicang.models.count import parameters
from taicang.search.space import WIDE, Space

ROOT = Path(__file__).resolve().parents[1]
NOTE = "<!-- Written by docs/generate.py; do not edit. -->\n"

_SERVED = {
    ("tpot", "held-out"): "32.3 % at 71 % coverage",
    ("tpot", "calibrated-on"): "20.3 % at 82 % coverage",
    ("ttft", "held-out"): "64.3 % at 71 % coverage",
    ("ttft", "calibrated-on"): "47.8 % at 82 % coverage",
}
PEERS: Mapping[tuple[str, str], str] = {
    **{(f"{how}_{what}_agg", part): said for (what, part), said in _SERVED.items() for how in ("served", "replay")},
    ("ascend_steps", "held-out"): "mean 10 %, worst 24 % (Huawei's simulator, all rows)",
    ("ascend_steps", "calibrated-on"): "mean 10 %, worst 24 % (Huawei's simulator, all rows)",
}
"""Errors of the strongest public tools on the same rows."""


def page(title: str, *parts: str) -> str:
    """A generated page."""
    return "\n\n".join([f"{NOTE}\n# {title}", *(part.strip("\n") for part in parts)]) + "\n"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; cells may hold no bar."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def cli_page() -> str:
    """Help of every command."""
    parts = ["`taicang --help` and every command's own help, as the program prints them."]
    parts += list(_helps(cli, "taicang", None, 2))
    return page("Command line", *parts)


def _helps(command: click.Command, name: str, parent: click.Context | None, depth: int) -> Any:
    width = {"terminal_width": 100, "max_content_width": 100}
    ctx = click.Context(command, info_name=name, parent=parent, **(dict(command.context_settings) | width))
    title = ctx.command_path
    yield f"{'#' * depth} {title}\n\n```text\n{_stripped(command.get_help(ctx))}\n```"
    if isinstance(command, click.Group):
        for each in command.list_commands(ctx):
            inner = command.get_command(ctx, each)
            if inner is not None:
                yield from _helps(inner, each, ctx, depth + (depth < 3))


def _stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def catalogue_page() -> str:
    """Keys of an entry, and what is built in."""
    parts = [
        "An entry is a YAML file. How to write one: [add a chip](../how-to/add-a-chip.md), [your own supernode]"
        "(../tutorials/own-supernode.md). What provenance means: "
        "[units and provenance](../explanation/units-and-provenance.md).",
        "## Keys\n\n`*` stands for a name of your choice (a plane, a level, a fact) or for a kind of arithmetic "
        f"({', '.join(schema.PEAKS)}). A machine may change its chip under `chip.` (`chip.memory.bandwidth`).",
    ]
    for kind in schema.KINDS:
        keys = [
            (f"`{key}`", _type(type_))
            for key, type_ in schema.FIELDS[kind].items()
            if not key.startswith("chip.") or kind != "machine"
        ]
        parts.append(f"### {kind}\n\n" + table(("key", "value"), keys))
    parts.append(
        "## Number formats\n\nBytes per element include the scale factors that travel with the data.\n\n"
        + table(
            ("format", "bytes per weight", "bytes per activation", "arithmetic peak"),
            [(f"`{f.name}`", f"{f.weight_bytes:.4g}", f"{f.activation_bytes:.4g}", f.peak) for f in FORMATS.values()],
        )
    )
    for kind, columns in (
        ("machine", ("status", "chips", "chip")),
        ("chip", ("status", "peak.bf16", "memory.capacity", "memory.bandwidth", "profile", "measured")),
        ("stack", ("epoch",)),
    ):
        parts.append(f"## Built-in {kind}s\n\n" + table(("name", "title", *columns), _entries(kind, columns)))
    parts.append(_models())
    return page("Catalogue", *parts)


_SAID = {
    "text": "text",
    "name": "a name",
    "count": "a whole number",
    "seed": "a whole number from 0 on",
    "ranks": "a whole number, or `all`",
    "ratio": "a positive number",
    "flag": "true or false",
    "words": "a list of words",
    "any": "a number, text or quantity",
    **{type_: " / ".join(said) for type_, said in schema.CHOICES.items()},
    "extents": "sizes such as 4x4x4",
}
_EXAMPLES = {
    "bytes": "64 GB",
    "bytes_per_s": "1.6 TB/s",
    "flop_per_s": "376 TFLOPS",
    "s": "2 us",
    "w": "559 kW",
    "usd": "8.2 MUSD",
    "cny": "60 MCNY",
    "usd_per_h": "2 USD/h",
    "hz": "1.8 GHz",
}


def _type(type_: str) -> str:
    return _SAID.get(type_) or f"a quantity, e.g. {_EXAMPLES[type_]}"


def _entries(kind: str, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    rows = []
    for name in names(kind):
        one = entry(kind, name)
        text = {figure.key: figure.text for figure in one.figures} | {"status": one.status}
        rows.append((f"`{name}`", one.title, *(text.get(column, "") for column in columns)))
    return rows


def _models() -> str:
    rows = []
    for name in model_names():
        if name not in not_modelled():
            loaded = model(name)
            counted = parameters(loaded)
            size = f"{counted.total / 1e9:.4g} B", f"{counted.active / 1e9:.4g} B"
            rows.append((f"`{name}`", *size, str(loaded.layers), loaded.dtype))
    refused = table(("model", "what is missing"), [(f"`{name}`", why) for name, why in not_modelled().items()])
    return (
        "## Built-in models\n\nParameters are counted by taicang, without MTP layers.\n\n"
        + table(("name", "parameters", "active", "layers", "weights"), rows)
        + f"\n\nKnown by name and refused:\n\n{refused}"
    )


def calibration_page() -> str:
    """Which constants there are and what they were fitted on."""
    parts = [
        "One file per family in `src/taicang/catalog/data/calibration/`, written by `taicang fit`, never by hand."
        " A file names the evidence file, its fingerprint (SHA-256, first 16 digits), the number of rows it was fitted"
        " on, and what was assumed.",
        "```text\nfamily: gemm\nkind: calibrated\nfitted_on: {file, sha256, rows, part, note}\n"
        "profiles: {PROFILE: {KEY: {CONSTANT: VALUE}}}\n```",
    ]
    for path in sorted(calibration.FOLDER.glob("*.yaml")):
        body = calibration.read(path.stem)
        fitted = body.get("fitted_on") or {}
        lines = [f"## {path.stem}", ""]
        if fitted:
            lines.append(
                f"Fitted on {fitted.get('rows', '?')} rows of `{fitted.get('file', '?')}` "
                f"(`{fitted.get('sha256', '')}`): {fitted.get('part', '')}."
            )
        if fitted.get("note"):
            lines.append(f"Note: {fitted['note']}.")
        listed = [
            (f"`{profile}`", ", ".join(f"`{key}`" for key in keyed)) for profile, keyed in body["profiles"].items()
        ]
        lines += ["", table(("profile", "keys"), listed)]
        parts.append("\n".join(lines))
    parts.append("What each constant means: [Python API](python.md), the classes whose names end in `Fit`.")
    return page("Calibration files", *parts)


def _percent(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def frozen() -> Mapping[str, Any]:
    """Scores of the frozen scoreboard: suite -> part -> figures; empty before the first freeze."""
    if not trust.FILE.exists():
        return {}
    scores: Mapping[str, Any] = yaml.safe_load(trust.FILE.read_text(encoding="utf-8")).get("scores", {})
    return scores


LEFT_OUT = (
    ("model", "unseen model"), ("sibling", "unseen chip"), ("source", "unseen publisher"), ("nothing", "interpolation")
)  # fmt: skip
"""What was left out of the fits -> its words in the table."""


def left_out_table() -> str:
    """Errors and coverage of bands on rows whose model or chip no fit had seen, beside those of rows like its own."""
    rows = []
    for suite, axes in trust.left_out().items():
        cells = [str(max(one["rows"] for one in axes.values()))]
        for axis, _ in LEFT_OUT:
            one = axes.get(axis, {})
            cells += [_percent(one.get("mape_ratio")), _percent(one.get("covered_ratio"))]
        rows.append((f"`{suite}`", *cells))
    heads = [f"{words}: {what}" for _, words in LEFT_OUT for what in ("MAPE", "in the band")]
    return table(("suite", "rows", *heads), rows) if rows else ""


def scoreboard_page() -> str:
    """The frozen scoreboard in full."""
    rows = []
    for suite, parts in frozen().items():
        for part in ("held-out", "calibrated-on"):
            one = parts.get(part)
            if one:
                cells = [
                    _percent(one.get(key))
                    for key in ("coverage_ratio", "mape_ratio", "median_ratio", "bias_ratio", "p90_ratio")
                ]
                peer = PEERS.get((suite, part), "")
                rows.append((f"`{suite}`", part, f"{one['rows']:,}", *cells, peer))
    head = ("suite", "part", "rows", "coverage", "MAPE", "median", "bias", "9 in 10 within", "others on these rows")
    body = table(head, rows) if rows else "No scoreboard is frozen yet: `taicang score --evidence DIR --freeze`."
    missing = [name for source in sources().values() for name in source.suites if name not in frozen()]
    said = f"Not frozen yet: {', '.join(f'`{name}`' for name in missing)}." if missing and rows else ""
    return page(
        "Scoreboard",
        "Runs whose model or chip was left out of every fit, whole: their mean error, and the share of them that lies "
        "in the band that the others give (nine in ten is what a band says; empty: unvalidated, or no row). `_rate` is "
        "requests per second of the served rows. Written by `taicang fit bands`; see "
        "[trust](../explanation/trust.md#bands).",
        left_out_table(),
        "Errors of the predictions on published measurements, as frozen in "
        "`src/taicang/catalog/data/scoreboard.yaml`. A mean error that moves by more than half a point fails the tests "
        "until it is accepted on purpose. Definitions: [metrics](metrics.md). How to repeat it: "
        "[score and fit](../how-to/score-and-fit.md). How to read it: [trust](../explanation/trust.md).",
        "Other tools: for served rows the strongest public one, on the same rows and part; over all aggregated rows it "
        "is 22.5 % (TPOT) and 50.8 % (TTFT) at 79 % coverage. A mean over a part that it does not answer cannot be "
        "compared directly: coverage stands beside it.",
        body,
        said,
        "## What the suites measure\n\n" + table(("suite", "rows"), [(f"`{k}`", v) for k, v in ABOUT.items()]),
    ).replace("\n\n\n", "\n\n")


ROWS: tuple[tuple[str, str, str], ...] = (
    ("gemm", "matrix products", "矩阵乘"),
    ("attend_prefill", "attention, prefill", "注意力，预填充"),
    ("attend_decode", "attention, decode", "注意力，解码"),
    ("mla_prefill", "latent attention, prefill", "潜在注意力，预填充"),
    ("mla_decode", "latent attention, decode", "潜在注意力，解码"),
    ("experts", "expert kernels", "专家内核"),
    ("experts_wideep", "expert kernels, wide EP", "专家内核，大规模专家并行"),
    ("nccl", "NCCL collectives", "NCCL 集合通信"),
    ("alltoall_gb200", "GB200 all-to-all", "GB200 全互换"),
    ("deepep_ll", "DeepEP, low latency", "DeepEP，低时延"),
    ("deepep_normal", "DeepEP, throughput", "DeepEP，高吞吐"),
    ("ascend_operators", "Ascend operators", "昇腾算子"),
    ("ascend_layer", "Ascend decode layers", "昇腾解码层"),
    ("ascend_serving", "DeepSeek-R1 on CloudMatrix384", "CloudMatrix384 上的 DeepSeek-R1"),
    ("ascend_steps", "forward steps on Ascend", "昇腾前向步"),
    ("served_tpot_agg", "served TPOT, aggregated", "在线服务 TPOT，合并部署"),
    ("served_tpot_disagg", "served TPOT, disaggregated", "在线服务 TPOT，分离部署"),
    ("replay_ttft_agg", "served TTFT, aggregated, replayed", "在线服务 TTFT，合并部署，重放"),
    ("replay_ttft_disagg", "served TTFT, disaggregated, replayed", "在线服务 TTFT，分离部署，重放"),
    ("replay_tpot_agg", "served TPOT, aggregated, replayed", "在线服务 TPOT，合并部署，重放"),
    ("served_ttft_agg", "the same TTFT in closed form", "同一 TTFT，闭式公式"),
    ("published_moe", "published disaggregated MoE", "已发表的分离式 MoE"),
    ("published_trtllm", "published TensorRT-LLM throughput", "已发表的 TensorRT-LLM 吞吐"),
    ("published_mlperf", "MLPerf inference", "MLPerf 推理"),
    ("published_mlenergy", "ML.ENERGY latency", "ML.ENERGY 时延"),
    ("published_mlenergy_power", "ML.ENERGY chip power", "ML.ENERGY 芯片功耗"),
    ("published_splitwise", "Splitwise prompt times", "Splitwise 预填充时间"),
    ("published_mooncake", "Mooncake on traces", "Mooncake 轨迹"),
    ("training_dense", "training steps, dense models", "训练步，稠密模型"),
    ("training_moe", "training steps, expert models", "训练步，专家模型"),
    ("training_lora", "fine-tuning steps", "微调步"),
)
"""Suites of the README's table, with their names in both languages."""


ABOUT: Mapping[str, str] = {
    "gemm": "single matrix products on six GPUs, and six grouped ones on an Ascend 910C die",
    "attend_prefill": "single attention kernels of serving stacks, prefill",
    "attend_decode": "the same, decode",
    "mla_prefill": "latent attention of DeepSeek-V3, one layer, prefill",
    "mla_decode": "the same, decode; two Ascend operator rates",
    "experts": "expert feed-forward of one rank, tokens gathered, skewed loads",
    "experts_wideep": "the same under wide expert parallelism, tokens dispatched",
    "nccl": "NCCL collectives inside one node or NVLink domain",
    "allreduce": "all-reduce kernels of vLLM, SGLang and TensorRT-LLM",
    "published_collective": "published bus bandwidths of whole machines",
    "kv_transfer": "moves of a KV cache between machines",
    "alltoall_gb200": "TensorRT-LLM's all-to-all on GB200, 2 to 64 ranks",
    "deepep_ll": "DeepEP, low latency, 1 to 8 nodes",
    "deepep_normal": "DeepEP, throughput, 1 to 8 nodes",
    "ascend_operators": "published operators of Ascend 910C: attention, int8 products, dispatch and combine",
    "ascend_layer": "layer times, gains and kernels in service on CloudMatrix384; these rows calibrate",
    "ascend_serving": "DeepSeek-R1 end to end on CloudMatrix384 (two papers)",
    "ascend_steps": "reference forward steps on Ascend dies, from the accuracy cases of Huawei's simulator",
    "served_tpot_agg": "TPOT under a closed loop of clients: vLLM, SGLang, TensorRT-LLM on H100, H200, B200, GB200",
    "served_tpot_disagg": "the same, prefill and decode apart",
    "served_ttft_agg": "TTFT of these rows in closed form, without queues",
    "served_ttft_disagg": "the same, prefill and decode apart",
    "replay_ttft_agg": "TTFT of these rows, replayed client by client",
    "replay_tpot_agg": "their TPOT, replayed",
    "replay_ttft_disagg": "TTFT with prefill and decode apart, replayed",
    "replay_tpot_disagg": "their TPOT, replayed",
    "published_moe": "published throughput of disaggregated expert models",
    "published_moe_context": "the same where the row leaves out most of the configuration",
    "published_trtllm": "TensorRT-LLM's published offline throughput",
    "published_mlperf": "MLPerf inference, offline and server",
    "published_mlenergy": "ML.ENERGY: time per token",
    "published_mlenergy_power": "ML.ENERGY: power of a chip",
    "published_splitwise": "Splitwise: prompt times on A100 and H100",
    "published_splitwise_power": "Splitwise: power",
    "published_mooncake": "Mooncake on request traces; queues are not simulated",
    "training_dense": "training steps of dense models",
    "training_moe": "training steps of expert models, routing forced to balance",
    "training_lora": "fine-tuning steps",
    "training_megatron": "Megatron's classic table",
}
"""What each suite measures."""


def readme_scoreboard(chinese: bool) -> str:
    """Held-out errors in short; suites that hold no rows out show those that they were calibrated on."""
    rows = []
    for suite, english, local in ROWS:
        parts = frozen().get(suite, {})
        one, part = parts.get("held-out"), "held-out"
        if one is None:
            one, part = parts.get("calibrated-on"), "calibrated-on"
        if one is None:
            continue
        told = {"held-out": "留出", "calibrated-on": "校准"}[part] if chinese else part
        name = local if chinese else english
        peer = PEERS.get((suite, part), "")
        if chinese:
            peer = peer.replace(" at ", "，覆盖 ").replace(" coverage", "").replace("mean", "平均")
            peer = peer.replace(", worst", "，最差").replace(
                " (Huawei's simulator, all rows)", "（华为仿真器，全部行）"
            )
        cells = (f"{one['rows']:,}", _percent(one["coverage_ratio"]), _percent(one["mape_ratio"]))
        rows.append((name, told, *cells, _percent(one["median_ratio"]), peer))
    if not rows:
        return "尚未冻结计分板。" if chinese else "No scoreboard is frozen yet."
    head = ("suite", "rows are", "rows", "coverage", "mean error", "median", "others on these rows")
    zh = ("项目", "行的用途", "行数", "覆盖率", "平均误差", "中位误差", "其他工具在同样的行上")
    return table(zh if chinese else head, rows)


def floors() -> str:
    """The floors as the import linter checks them, top to bottom."""
    body = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = body["tool"]["importlinter"]["contracts"][0]
    return "```text\n" + "\n".join(contract["layers"]) + "\n```"


def digest_files() -> str:
    """How many entries the catalogue carries."""
    counts = ", ".join(f"{len(names(kind))} {kind}s" for kind in schema.KINDS)
    built = len([path for path in (files.DATA / "models").glob("*.yaml") if path.stem != "names"])
    return f"{counts}, {built} models"


AXES: Mapping[str, str] = {
    "tp": "tensor parallel ranks",
    "pp": "pipeline stages",
    "expert_tp": "expert tensor parallel ranks",
    "spare": "redundant experts per rank beyond those that make experts divide",
    "microbatches": "microbatches (2 where the stack overlaps)",
    "drafts": "drafted tokens (models with MTP)",
    "chunks": "token budget of a step (aggregated)",
    "prompts": "prompts that a group prefills together",
    "batches": "sequences of an attention group",
}


def space_table() -> str:
    """Axes of the search, as the code has them."""

    def told(values: tuple[float, ...]) -> str:
        if len(values) > 12:
            return f"{len(values)} sizes from {values[0]:,.0f} to {values[-1]:,.0f}"
        return ", ".join(f"{value:,.0f}" for value in values)

    rows = [(name, told(getattr(Space(), axis)), told(getattr(WIDE, axis))) for axis, name in AXES.items()]
    return table(("axis", "standard", "wide"), rows)


BLOCKS: Mapping[str, Callable[[bool], str]] = {
    "scoreboard": readme_scoreboard,
    "floors": lambda _: floors(),
    "counts": lambda _: digest_files(),
    "space": lambda _: space_table(),
}


def block(name: str, *, chinese: bool = False) -> str:
    """The generated block ``name`` of a page."""
    return re.sub(r"\n{3,}", "\n\n", BLOCKS[name](chinese))


PAGES: Mapping[str, Callable[[], str]] = {
    "reference/cli.md": cli_page,
    "reference/catalogue.md": catalogue_page,
    "reference/calibration.md": calibration_page,
    "reference/scoreboard.md": scoreboard_page,
    "reference/python.md": lambda: python_page.make(page),
    "reference/claims.md": lambda: claims_page.make(page, table, "en"),
    "reference/claims.zh.md": lambda: claims_page.make(page, table, "zh"),
    **{
        claims_page.place(key, lang): lambda key=key, lang=lang: claims_page.answer(page, key, lang)  # type: ignore[misc]
        for key in claims_page.in_full()
        for lang in ("en", "zh")
    },
}
"""Pages that are wholly generated."""
