"""What ships for Kubernetes: valid against its schemas, and true of the endpoint that it runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from taicang.app.main import cli
from taicang.app.options import context_of
from taicang.live.endpoint import OPEN

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FILES = sorted(DEPLOY.glob("*.yaml"))
BEYOND = {
    ("inference.networking.k8s.io/v1", "InferencePool"): {"selector", "targetPorts", "endpointPickerRef"},
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): {"parentRefs", "rules"},
    ("monitoring.coreos.com/v1", "PodMonitor"): {"selector", "podMetricsEndpoints"},
}
"""Custom resources, of which no schema ships with Kubernetes: what their specs must have."""


def documents():
    return [(path.name, each) for path in FILES for each in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def named(kind):
    return next(each for _, each in documents() if each["kind"] == kind)


def test_the_files_are_there():
    assert [path.name for path in FILES] == ["gateway.yaml", "scale.yaml", "taicang.yaml"]
    assert len(documents()) == 6


@pytest.mark.parametrize(
    ("name", "made"), documents(), ids=lambda each: each if isinstance(each, str) else each["kind"]
)
def test_each_is_valid(name, made):
    required = BEYOND.get((made["apiVersion"], made["kind"]))
    if required is not None:
        assert required <= set(made["spec"])
        return
    schemas = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is an extra")
    schemas.validate(made, "1.37", strict=True)


def test_the_pool_picks_the_pods_and_their_port():
    pod = named("Deployment")["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    pool, monitor = named("InferencePool")["spec"], named("PodMonitor")["spec"]
    whole = (pool["selector"], monitor["selector"], named("Deployment")["spec"]["selector"])
    for wanted in (named("Service")["spec"]["selector"], *(each["matchLabels"] for each in whole)):
        assert wanted
        assert wanted.items() <= labels
    port = pod["spec"]["containers"][0]["ports"][0]
    assert [each["number"] for each in pool["targetPorts"]] == [port["containerPort"]]
    assert (
        monitor["podMetricsEndpoints"][0]["port"] == named("Service")["spec"]["ports"][0]["targetPort"] == port["name"]
    )
    assert (
        named("HTTPRoute")["spec"]["rules"][0]["backendRefs"][0]["name"] == named("InferencePool")["metadata"]["name"]
    )
    assert named("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == named("Deployment")["metadata"]["name"]


def test_the_probes_ask_what_the_endpoint_answers_without_a_key():
    container = named("Deployment")["spec"]["template"]["spec"]["containers"][0]
    paths = [container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")]
    assert paths == ["/health", "/health", "/ready"]
    assert set(paths) <= set(OPEN)
    assert named("PodMonitor")["spec"]["podMetricsEndpoints"][0]["path"] in OPEN


def test_the_command_line_is_one_that_serve_takes():
    container = named("Deployment")["spec"]["template"]["spec"]["containers"][0]
    built = re.search(r"^CMD (.*)$", (DEPLOY / "Containerfile").read_text(encoding="utf-8"), re.MULTILINE)[1]
    for words in (container["args"], json.loads(built)):
        serve = cli.get_command(None, words[0])
        given = context_of(serve, words[1:]).params
        assert given["host"] == "0.0.0.0", "a pod is reached from outside"
        assert given["port"] == container["ports"][0]["containerPort"]
    label = named("Deployment")["spec"]["template"]["metadata"]["labels"]["llm-d.ai/model"]
    assert label == container["args"][1], "its name on the pod is that of the model"


def test_what_the_image_copies_is_there():
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in line.split()[:-1])
    extras = re.search(r"\.\[(.*?)\]", text)[1].split(",")
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf"^{name} = \[", declared, re.MULTILINE) for name in extras)
