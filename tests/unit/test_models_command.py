"""``taicang models``."""

import json

from click.testing import CliRunner

from taicang.app.models_cmd import models


def test_show_as_json() -> None:
    result = CliRunner().invoke(models, ["show", "nvidia/DeepSeek-R1-NVFP4", "--json"])
    assert result.exit_code == 0, result.output
    shown = json.loads(result.output)
    assert shown["model"]["dtype"] == "nvfp4"
    assert shown["model"]["blocks"][0]["attention"]["kind"] == "Latent"
    assert shown["kv_bytes_per_token"] == 70272
    assert 37.5e9 < shown["parameters"]["active"] < 37.6e9


def test_show_for_people() -> None:
    result = CliRunner().invoke(models, ["show", "gpt-oss-120b"])
    assert result.exit_code == 0, result.output
    for part in ("116.83 B", "5.71 B", "attention bf16, dense bf16", "window 128", "source:"):
        assert part in result.output


def test_list_tells_what_is_refused() -> None:
    result = CliRunner().invoke(models, ["list", "--json"])
    listed = json.loads(result.output)
    assert {"deepseek-r1", "kimi-k2", "bloom-176b"} <= {row["name"] for row in listed["models"]}
    assert "compress_ratios" in listed["not_modelled"]["deepseek-v4.1-flash"]
    assert "deepseek-r1" in CliRunner().invoke(models, ["list"]).output


def test_help_has_examples() -> None:
    for command in ([], ["list"], ["show"]):
        assert "taicang models" in CliRunner().invoke(models, [*command, "--help"]).output
