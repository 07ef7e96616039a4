"""Files for real engines ask for the ranks, devices and nodes of the plan: thousands of random plans, each target."""

import json
import random
import re
import shlex
from dataclasses import replace

import pytest
import yaml
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.app.search_cmd import search
from taicang.catalog.models import model as load_model
from taicang.errors import MissingFigure, NotModelled, UnknownName
from taicang.plans import ServePlan
from taicang.predict.prediction import Infeasible
from taicang.predict.serving import answer
from taicang.search.choices import default_stack, quantisation
from taicang.search.door import Run, formats, job_of, prepare
from taicang.search.handover import (
    TARGETS,
    TRAINERS,
    emit,
    image,
    other_version,
    priced_version,
    role_name,
    unlaunchable,
    why_not,
)  # fmt: skip
from taicang.search.handover.kubernetes import resource
from taicang.search.result import Choice, Pool
from taicang.search.run import Ask, every
from taicang.search.run import search as run_search
from taicang.search.space import WIDE, default, layouts

CASES = [
    ("deepseek-v3", "hgx-h200 x 4"),
    ("deepseek-v3", "gb200-nvl72"),
    ("qwen3-235b-a22b", "hgx-h100 x 8"),
    ("llama-3.1-405b", "hgx-h200 x 4"),
    ("deepseek-r1", "cloudmatrix384"),
]
ON = ("hgx-h200 x 4", "hgx-h20", "mi300x-8", "atlas-800-a2 x 4", "cloudmatrix384")
ON = {name: catalog.machine(name) for name in ON}
DRAWS = 120
REPLICA = "training.kubeflow.org/replica-index"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def choice(machine, pools, stack="sglang"):
    used = sum(pool.instances * pool.chips for pool in pools)
    return Choice(
        machine=machine.name,
        stack=stack,
        quant="auto",
        mode="aggregated" if len(pools) == 1 else "disaggregated",
        pools=tuple(pools),
        ttft_s=1.0,
        tpot_s=0.05,
        requests_per_s=1.0,
        output_tokens_per_s=1.0,
        chips=used,
        machine_chips=machine.chips,
        output_tokens_per_s_per_chip=1.0,
        output_tokens_per_s_per_w=None,
        output_tokens_per_s_per_usd=None,
        bands={},
    )


def given(chosen, machine, net, to):
    return emit(chosen, machine, net, to=to, path="weights", input_tokens=4000, output_tokens=1000)


def number(words, *flags, default=1):
    for flag in flags:
        if flag in words:
            return int(words[words.index(flag) + 1])
    return default


def ranks_of(words):
    """Ranks that an instance with these arguments occupies, by the engine's own rules."""
    tp = number(words, "--tensor-parallel-size", "--tp-size", "--tp_size")
    pp = number(words, "--pipeline-parallel-size", "--pp-size", "--pp_size")
    return tp * pp * number(words, "--data-parallel-size")


def commands(text):
    """Engine commands in a script."""
    return [shlex.split(line) for line in re.findall(r"exec (.*?)(?:; fi)?$", text, re.M) if "sshd" not in line]


def asked(text, kind):
    """Devices on a node, nodes of an instance and instances that manifests ask for."""
    loads = [o for o in yaml.load_all(text, LOADER) if o["kind"] not in ("Service", "ConfigMap")]
    if loads[0]["kind"] == "MPIJob":
        spec = loads[0]["spec"]
        return spec["slotsPerWorker"], spec["mpiReplicaSpecs"]["Worker"]["replicas"], len(loads)
    (load,) = loads
    spec = load["spec"]
    several = load["kind"] == "LeaderWorkerSet"
    template = spec["leaderWorkerTemplate"]["workerTemplate"] if several else spec["template"]
    devices = template["spec"]["containers"][0]["resources"]["limits"][kind]
    return devices, spec["leaderWorkerTemplate"]["size"] if several else 1, spec["replicas"]


def check_engine(files, pool, kind, to):
    role = role_name(pool.role)
    devices, nodes, replicas = asked(files[f"{role}.yaml"], kind)
    plan = pool.plan
    if to == "mindie":
        tree = json.loads(files[f"{pool.role}-config.json"])["BackendConfig"]
        (model,) = tree["ModelDeployConfig"]["ModelConfig"]
        assert model["worldSize"] == plan.ranks == model["tp"] * max(model["dp"], 1)
        assert model.get("moe_ep", 1) * model.get("moe_tp", 1) == plan.ep * plan.moe_tp
        assert len(tree["npuDeviceIds"][0]) == devices
        if nodes > 1:
            table = json.loads(files[f"{pool.role}-ranktable.json"])
            ranks = [int(d["rank_id"]) for server in table["server_list"] for d in server["device"]]
            assert (len(table["server_list"]), ranks) == (nodes, list(range(plan.ranks)))
        return devices, nodes, replicas
    for words in commands(files[f"{role}.sh"]):
        assert ranks_of(words) == plan.ranks
        if to.startswith("vllm"):
            assert ("--enable-expert-parallel" in words) == (plan.ep > 1)
            assert ("--all2all-backend" not in words) or plan.ep > 1  # vLLM: use_all2all_kernels needs use_ep
            check_spread(words, plan, devices, nodes)
            # priced as one graph of a decode step, which the plugin does not capture by itself
            assert any("FULL_DECODE_ONLY" in word for word in words) == (to == "vllm-ascend" and role != "prefill")
        else:
            assert number(words, "--ep-size", "--ep_size") == plan.ep
        if to == "sglang":
            assert number(words, "--dp-size") == plan.dp
            assert number(words, "--nnodes") == nodes
    return devices, nodes, replicas


def check_spread(words, plan, devices, nodes):
    """vLLM's groups of ranks lie on the nodes as placed."""
    if nodes == 1:
        assert "--nnodes" not in words
    elif "--nnodes" in words:
        assert number(words, "--nnodes") == nodes
    else:
        assert number(words, "--data-parallel-size-local") * plan.tp * plan.pp == devices


def check_services(files):
    """Every host that a file names is a service that a manifest defines, or a pod of one, and services find pods."""
    objects = [o for name, text in files.items() if name.endswith(".yaml") for o in yaml.load_all(text, LOADER)]
    objects = [o for o in objects if isinstance(o, dict) and "kind" in o]
    services = {o["metadata"]["name"]: o["spec"] for o in objects if o["kind"] == "Service"}
    sets = [(o["metadata"]["name"], o["spec"]["replicas"]) for o in objects if o["kind"] == "StatefulSet"]
    pods = {f"{name}-{i}" for name, count in sets for i in range(count)}
    jobs = {o["metadata"]["name"] for o in objects if o["kind"] in ("MPIJob", "LeaderWorkerSet")}
    assert not jobs & set(services), "those names are the operators' own"
    hosts = set(re.findall(r"([a-z0-9][a-z0-9.-]*):8000\b", "\n".join(files.values())))
    for host in hosts:
        pod, _, service = host.rpartition(".")
        assert service in services, f"{host}: no manifest defines it"
        assert not pod or pod in pods
    for spec in services.values():
        name = spec["selector"].get("training.kubeflow.org/job-name")
        assert name is None or name in jobs
    return len(hosts)


def check_dynamo(files, pools, kind):
    tree = yaml.load(files["dynamo.yaml"], LOADER)
    found = {part["name"]: part for part in tree["spec"]["components"]}
    for pool in pools:
        part = found[role_name(pool.role)]
        (main,) = part["podTemplate"]["spec"]["containers"]
        assert ranks_of(main["args"]) == pool.plan.ranks
        yield int(main["resources"]["limits"][kind]), part.get("multinode", {}).get("nodeCount", 1), part["replicas"]


def check_llmd(files, pools, kind):
    tree = yaml.load(files["values.yaml"], LOADER)
    for pool in pools:
        part = tree["prefill" if pool.role == "prefill" else "decode"]
        (engine,) = part["containers"]
        for words in commands(engine["args"][0]):
            assert ranks_of(words) == pool.plan.ranks
        split = part["parallelism"]
        assert (split["tensor"], split["data"]) == (pool.plan.tp, pool.plan.dp)
        assert tree["multinode"] or split["workers"] == 1
        yield engine["resources"]["limits"][kind], split["workers"], part["replicas"]


@pytest.mark.parametrize(("name", "on"), CASES)
def test_ranks_devices_and_nodes_are_those_of_the_plan(name, on):
    machine, net, dice = catalog.machine(on), load_model(name), random.Random(name + on)
    stack, kind = catalog.stack(default_stack(machine, net)), resource(machine)
    plans = list(layouts(WIDE, net, machine, stack, quantisation("auto", net, machine.chip), prefill=True))
    written = dict.fromkeys(TARGETS, 0)

    def pool(role):
        plan = dice.choice(plans)
        chips = -(-plan.ranks // machine.chip.dies)
        return Pool(
            role=role,
            plan=plan,
            instances=dice.randint(1, max(machine.chips // chips, 1)),
            chips=chips,
            sequences=float(dice.randint(1, 256)),
            chunk_tokens=dice.choice([2048, 8192]) if role == "both" else 0,
        )

    for _ in range(DRAWS):
        pools = [pool("both")] if dice.random() < 0.7 else [pool("prefill"), pool("decode")]
        chosen = choice(machine, pools, dice.choice(["vllm", "sglang", "trtllm"]))
        for to in TARGETS:
            try:
                files = given(chosen, machine, net, to)
            except NotModelled:
                continue
            written[to] += 1
            checks = {"dynamo": check_dynamo, "llm-d": check_llmd}
            if to in checks:
                shares = list(checks[to](files, pools, kind))
            else:
                shares = [check_engine(files, each, kind, to) for each in pools]
                named = check_services(files)
                routed = len(pools) == 2 and to != "mindie"
                assert named == (sum(each.instances for each in pools) if routed else 0)
            for (devices, nodes, replicas), each in zip(shares, pools, strict=True):
                assert devices * nodes == each.plan.ranks
                assert replicas == each.instances
                assert devices <= machine.chips_per_node * machine.chip.dies
            if to == "mindie" and len(pools) == 2:
                deploy = json.loads(files["user_config.json"])["deploy_config"]
                npus = deploy["single_p_instance_pod_num"] * deploy["p_pod_npu_num"] * deploy["p_instances_num"]
                assert npus == pools[0].plan.ranks * pools[0].instances
    vendor = machine.chip.vendor.lower()
    assert all(count > 0 for to, count in written.items() if vendor in TARGETS[to].chips)
    assert all(count == 0 for to, count in written.items() if vendor not in TARGETS[to].chips)


def one_pool(machine, net, **wanted):
    stack = catalog.stack(default_stack(machine, net))
    plans = layouts(WIDE, net, machine, stack, quantisation("auto", net, machine.chip))
    plan = next(p for p in plans if all(getattr(p, key) == value for key, value in wanted.items()))
    return Pool(role="both", plan=plan, instances=1, chips=plan.ranks, sequences=8.0, chunk_tokens=2048)


@pytest.mark.parametrize(
    ("to", "on", "wanted", "reason"),
    [
        ("trtllm", "hgx-h200 x 4", {"tp": 2, "dp": 8}, "groups of 2 ranks"),
        ("vllm", "hgx-h200 x 4", {"dp": 16, "ep": 8, "moe_tp": 2}, "experts as 8 x 2"),
        ("mindie", "cloudmatrix384", {"tp": 8, "pp": 2, "dp": 1}, "pipeline stages"),
        ("vllm", "cloudmatrix384", {"tp": 8, "dp": 1}, "vllm-ascend"),
        ("megatron", "hgx-h200 x 4", {"tp": 8, "dp": 1}, "taicang train"),
    ],
)
def test_what_a_target_cannot_do_is_refused_with_the_reason(to, on, wanted, reason):
    machine, net = catalog.machine(on), load_model("deepseek-v3")
    with pytest.raises(NotModelled, match=reason):
        given(choice(machine, [one_pool(machine, net, **wanted)]), machine, net, to)


ENGINES = [(to, each) for to, target in TARGETS.items() if target.writer for each in target.chips]


@settings(max_examples=12, deadline=None)
@drawn(st.sampled_from(ENGINES), st.data())
def test_what_a_search_finds_the_engine_can_be_told(engine, data):
    """Whatever plan is shown, also where nobody asked for files."""
    to, vendor = engine
    fit = [name for name, on in ON.items() if on.chip.vendor.lower() == vendor]
    name = data.draw(st.sampled_from(("deepseek-v3", "qwen3-30b-a3b", "llama-3.1-8b")))
    lengths = {"input_tokens": data.draw(st.integers(64, 8000)), "output_tokens": data.draw(st.integers(8, 2000))}
    on = data.draw(st.sampled_from(fit))
    try:
        job = prepare(name, on, stack=TARGETS[to].stack, tpot_s=1.0, **lengths)
        found = run_search(job, formats(["auto"], job), default(job.model), Ask(top=20))
    except NotModelled:
        return
    for each in found.best:
        files = emit(each, job.machine, job.model, to=to, path="w", **lengths)
        assert files, each


def test_a_plan_beside_the_others_is_not_handed_over_where_the_target_cannot_take_it():
    job = prepare("deepseek-v3", "hgx-h200", stack="vllm", input_tokens=4000, output_tokens=1000)
    ((_, quant),) = formats(["auto"], job)
    plan = ServePlan(tp=8, ep=4, moe_tp=2, quant=quant)
    refused = why_not("vllm", job.machine, job.model, job.stack.name)
    assert plan in every(job, quant, default(job.model), [plan])["decode"]
    assert plan not in every(job, quant, default(job.model), [plan], refused)["decode"]


@pytest.mark.parametrize("to", ["vllm", "sglang", "trtllm"])
def test_a_router_finds_instances_on_several_nodes(to):
    machine, net = catalog.machine("hgx-h200 x 8"), load_model("deepseek-v3")
    first = replace(one_pool(machine, net, dp=16, tp=1, ep=16, redundant=0, pp=1, microbatches=1), role="prefill")
    pools = [replace(first, chunk_tokens=0), replace(first, role="decode", chunk_tokens=0, instances=2)]
    files = given(choice(machine, pools), machine, net, to)
    assert check_services(files) == 3
    selected = [o["spec"]["selector"] for o in yaml.load_all(files["decode.yaml"], LOADER) if o["kind"] == "Service"]
    for selector in selected:
        # the process that serves: on the first node of its instance
        assert "0" in (selector.get(key) for key in ("leaderworkerset.sigs.k8s.io/worker-index", REPLICA))
        assert selector.get("training.kubeflow.org/job-role", "worker") == "worker"


def test_an_unknown_target_suggests_the_nearest():
    machine, net = catalog.machine("hgx-h200"), load_model("llama-3.1-8b")
    with pytest.raises(UnknownName, match="sglang"):
        given(choice(machine, [one_pool(machine, net, tp=1)]), machine, net, "sglan")


def test_the_command_offers_every_target():
    (option,) = [each for each in search.params if each.name == "emit"]
    assert set(option.type.choices) == {*TARGETS, *TRAINERS}


RELEASES = {"": []} | {
    target.stack: [name.partition("@")[2] for name in catalog.names("stack") if name.startswith(f"{target.stack}@")]
    for target in TARGETS.values() if target.stack
}  # fmt: skip
TARGETED = [each for each in TARGETS if TARGETS[each].stack]


def test_what_was_priced_for_another_engine_pins_no_release_of_it():
    machine, stacks = catalog.machine("hgx-h100"), [catalog.stack("vllm"), catalog.stack("sglang")]
    for to in TARGETED:
        for stack in stacks:
            assert bool(priced_version(to, stack)) == (stack.engine == TARGETS[to].stack)
    assert "latest" not in image("vllm", machine, "0.21.0")
    for to in ("dynamo", "llm-d"):
        assert "pin that one" in other_version(to, machine, catalog.stack("vllm"))


NOT_OF = {
    "nvidia": "rocm|ascend|mindie",
    "amd": "cuda|nvcr|ascend|mindie|vllm-openai:|sglang:latest",
    "huawei": "cuda|nvcr|rocm|lmsysorg",
}


@pytest.mark.parametrize("on", catalog.names("machine"))
def test_no_container_starts_from_an_image_of_other_chips(on):
    try:
        machine = catalog.machine(on)
    except MissingFigure:
        return
    vendor, name = machine.chip.vendor.lower(), machine.chip.name
    for to, target in TARGETS.items():
        served = vendor in target.chips and target.writer
        for stack in map(catalog.stack, [f"{target.stack}@{release}" for release in RELEASES[target.stack] if served]):
            said = image(to, machine, version := priced_version(to, stack))
            assert not re.search(NOT_OF[vendor], said), (on, to, said)
            own = said == f"{to}:{version}"
            assert ("910c" in name) == said.endswith("-a3") or own or vendor != "huawei", (on, to, said)
            # the release that was priced, or a word about it
            assert re.search(rf":v?{re.escape(version)}(-|$)", said) or stack.name in other_version(to, machine, stack)
            assert own or not (version in said and other_version(to, machine, stack)) or "rc" in said


@settings(max_examples=40, deadline=None)
@drawn(data=st.data())
def test_a_fixed_plan_that_the_engine_cannot_be_told_is_answered_with_a_warning(data):
    stack, on = data.draw(st.sampled_from([("sglang", "hgx-h200"), ("vllm", "hgx-h200"), ("tensorrt-llm", "hgx-b200"),
                                           ("vllm-ascend", "atlas-800-a3")]))  # fmt: skip
    tp, pp, drafts = (data.draw(st.sampled_from(each)) for each in ((1, 2, 4), (1, 2), (0, 1)))
    ep = data.draw(st.sampled_from([1, 2, 4]).filter(lambda ep: ep <= tp))
    plan = ServePlan(tp=tp, pp=pp, ep=ep, moe_tp=tp // ep)
    run = Run(model="glm-4.5-air", on=on, stack=stack, plan=plan, drafts=drafts, batch=4, modes=["aggregated"])
    found = answer(run)
    if isinstance(found, Infeasible):
        return
    job = job_of(run)
    takes = not unlaunchable(job.machine, job.model, job.stack)("both", found.decode.plan)
    assert takes != any(line.startswith("warning: ") for line in found.assumptions)
    if pp > 1 and drafts and stack != "tensorrt-llm":
        assert not takes


@pytest.mark.parametrize("stages", [1, 2])
def test_what_feeds_drafts_runs_their_head_where_it_can(stages):
    machine, net = catalog.machine("hgx-h200 x 4"), load_model("deepseek-v3")
    plan = ServePlan(tp=8, ep=8, pp=stages)
    feeding = Pool(role="prefill", plan=plan, instances=1, chips=8 * stages, sequences=2.0)
    serving = Pool(role="decode", plan=ServePlan(tp=8, ep=8, draft_tokens=2), instances=1, chips=8, sequences=8.0)
    for drafts in (2, 0):
        fed = replace(serving, plan=replace(serving.plan, draft_tokens=drafts))
        script = given(choice(machine, [feeding, fed]), machine, net, "sglang")["prefill.sh"]
        assert ("--speculative-num-steps 2" in script) == bool(drafts and stages == 1)
        assert ("No draft head" in script) == bool(drafts and stages > 1)
