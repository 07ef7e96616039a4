"""Hand a choice to a real engine or platform: files that ask for the plan's ranks, devices and nodes, no more.

What a target cannot express is refused with the reason, never approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import yaml

from taicang.catalog.rules import container_image
from taicang.catalog.stack_entry import calibrated, hosts
from taicang.errors import NotModelled, UnknownName
from taicang.hardware import Machine
from taicang.models.types import Model
from taicang.plans import ServePlan
from taicang.search.handover import dynamo, llmd
from taicang.search.handover.kubernetes import addresses, label, manifests
from taicang.search.handover.launch import Launch, Placed, Writer, all_to_all, place, role_name, shell
from taicang.search.handover.mindie import mindie, user_config
from taicang.search.handover.sglang import sglang
from taicang.search.handover.trtllm import trtllm
from taicang.search.handover.vllm import ascend, vllm
from taicang.search.result import Choice, Pool
from taicang.stacks import Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An engine or a platform that a choice can be handed to."""

    stack: str = ""
    """What prices it (none: the stack of whatever engine was chosen)."""
    platform: frozenset[str] = frozenset()
    """Vendors whose chips a platform knows (none: those of its stack)."""
    writer: Writer | None = None
    """Of an engine with a command of its own."""
    router: str = ""
    """Command that sends a request first to prefill, then to decode."""

    @property
    def chips(self) -> frozenset[str]:
        """Vendors on whose chips it runs."""
        return self.platform or hosts()[self.stack]


NPUS = ("310p", "910b", "910c", "950")
TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "vllm": Target(
            stack="vllm", writer=vllm, router="vllm-router --vllm-pd-disaggregation",
        ),
        "vllm-ascend": Target(
            stack="vllm-ascend", writer=ascend, router="vllm-router --vllm-pd-disaggregation",
        ),
        "sglang": Target(
            stack="sglang", writer=sglang,
            router="python3 -m sglang_router.launch_router --pd-disaggregation",
        ),
        "trtllm": Target(stack="tensorrt-llm", writer=trtllm),
        "mindie": Target(stack="mindie", writer=mindie),
        "dynamo": Target(platform=frozenset({"nvidia"})),
        "llm-d": Target(stack="vllm"),
    }
)  # fmt: skip
TRAINERS = ("megatron",)


def stack_for(to: str, machine: Machine) -> str | None:
    """The stack of the target ``to``, if it is calibrated for machines of this kind."""
    name = TARGETS[to].stack if to in TARGETS else ""
    return name if name and calibrated(name, ascend=machine.chip.ascend) else None


def priced_as_another(to: str, machine: Machine, stack: Stack) -> str:
    """What to say where the plan of ``to`` is priced with the constants of another engine (nothing where it is not)."""
    name = TARGETS[to].stack
    if name in ("", stack.engine):
        return ""
    kind = "Ascend" if machine.chip.ascend else "GPUs"
    why = "" if stack_for(to, machine) else f": {name} is not calibrated on {kind}"
    return f"priced as {stack.name}, not as {to}{why}"


def emit(
    choice: Choice,
    machine: Machine,
    net: Model,
    *,
    to: str,
    path: str,
    input_tokens: float,
    output_tokens: float,
    notes: Sequence[str] = (),
    version: str = "",
    priced: Stack | None = None,
) -> dict[str, str]:
    """Files by name for the target ``to``: a launch script and a manifest per pool, or the platform's one file.

    ``path`` is where the engine finds the weights, the tokens are those of the longest request, ``notes`` what a reader
    of the files has to know, ``priced`` the engine that was priced and ``version`` its release, where it is the one
    that is to run. Raises ``UnknownName`` for a target and ``NotModelled`` for a plan or a machine that it cannot take.
    """
    check(to, machine)
    pools = [
        Placed(
            name=label(f"{net.name}-{role_name(pool.role)}"),
            pool=pool,
            where=place(pool.plan, machine),
            net=net,
            machine=machine,
            path=path,
            input_tokens=int(input_tokens),
            output_tokens=int(output_tokens),
            feeds_drafts=int(choice.pools[-1].plan.draft_tokens) if pool.role == "prefill" else 0,
            priced=priced,
        )
        for pool in choice.pools
    ]
    if to == "dynamo":
        return noted({"dynamo.yaml": dynamo.graph(pools, choice.stack)}, notes)
    if to == "llm-d":
        return noted({"values.yaml": llmd.values(pools, image(to, machine))}, notes)
    files: dict[str, str] = {}
    for placed in pools:
        launch, role = launched(to, placed), role_name(placed.pool.role)
        objects = manifests(placed, launch, image(to, machine, version))
        files[f"{role}.sh"] = script(placed, launch)
        files[f"{role}.yaml"] = yaml.safe_dump_all(objects, sort_keys=False, width=120)
        files |= launch.files
    return noted(files | (router(to, pools, version) if len(pools) > 1 else {}), notes)


def noted(files: Mapping[str, str], notes: Sequence[str]) -> dict[str, str]:
    """``files`` with the notes as comments at their head, where their kind has comments."""
    lines = "".join(f"# {note}.\n" for note in notes)
    shebang = "#!/bin/sh\n"
    made = {}
    for name, text in files.items():
        first = shebang if text.startswith(shebang) else ""
        made[name] = f"{first}{lines}{text.removeprefix(first)}" if name.endswith((".sh", ".yaml")) else text
    return made


def check(to: str, machine: Machine) -> None:
    """Raise ``UnknownName`` for a target that does not exist and ``NotModelled`` for one that cannot serve here."""
    if to not in (*TARGETS, *TRAINERS):
        raise UnknownName("engine", to, (*TARGETS, *TRAINERS), where="--emit")
    if to in TRAINERS:
        raise NotModelled("Megatron trains: taicang train MODEL --search --emit megatron hands a training plan to it")
    vendor = machine.chip.vendor.lower()
    if vendor not in TARGETS[to].chips:
        fit = ", ".join(name for name, target in TARGETS.items() if vendor in target.chips)
        raise NotModelled(f"{to} does not run on {machine.chip.name}" + (f"; {fit} will" if fit else ""))


def why_not(to: str, machine: Machine, net: Model, stack: str) -> Callable[[str, ServePlan], str]:
    """Tells of a role and a layout why ``to`` cannot express it, if it cannot. Raises as ``check``."""
    check(to, machine)
    engine = dynamo.engine_of(stack) if to == "dynamo" else to

    def refused(role: str, plan: ServePlan) -> str:
        pool = Pool(role=role, plan=plan, instances=1, chips=1, sequences=1.0)  # type: ignore[arg-type]
        try:
            placed = Placed(
                name="", pool=pool, where=place(plan, machine), net=net, machine=machine, path="/", input_tokens=1,
                output_tokens=1,
            )  # fmt: skip
            if to == "dynamo":
                dynamo.component(placed, engine)
            elif to == "llm-d":
                llmd.component(placed, "")
            else:
                launched(to, placed)
        except NotModelled as reason:
            return str(reason)
        return ""

    return refused


def unlaunchable(machine: Machine, net: Model, stack: Stack) -> Callable[[str, ServePlan], str]:
    """Tells of a role and a layout why the engine of ``stack`` cannot be told to run it: nothing, where nobody wrote
    down what that engine is told, or on whose chips it runs."""
    for to, target in TARGETS.items():
        if target.writer and target.stack == stack.engine and machine.chip.vendor.lower() in target.chips:
            return why_not(to, machine, net, stack.name)
    return lambda *_: ""


def image(to: str, machine: Machine, version: str = "") -> str:
    """What containers of the target ``to`` start from, for an image of other chips does not run: that of the
    ``version`` that was priced where its tag is known; ``to:version``, which a site has to build, where nobody
    publishes one."""
    chip = machine.chip
    npu = next((each for each in NPUS if each in chip.name), "910c" if chip.dies > 1 else "910b")
    return container_image(to, npu if chip.ascend else chip.vendor.lower(), chip.name, version)


def priced_version(to: str, stack: Stack) -> str:
    """The release of the target's own engine that was priced; "" where another engine's was."""
    return (stack.asked or stack.version) if TARGETS[to].stack == stack.engine else ""


def other_version(to: str, machine: Machine, stack: Stack) -> str:
    """What to say where the containers of ``to`` hold another release than the one that was priced."""
    priced = "" if to == "llm-d" else priced_version(to, stack)
    said = dynamo.image(dynamo.engine_of(stack.name)) if to == "dynamo" else image(to, machine, priced)
    if priced and said.partition(":")[2].removeprefix("v").partition("-")[0] == priced:
        return ""
    return f"{said} holds a release of its own, {stack.name} was priced: pin that one where a site has it"


def launched(to: str, placed: Placed) -> Launch:
    """What the nodes of a pool's instance run under the engine ``to``."""
    writer = TARGETS[to].writer
    assert writer is not None
    return writer(placed)


def script(placed: Placed, launch: Launch) -> str:
    """What to run on each node of one instance, for clusters without Kubernetes."""
    where, quant = placed.where, placed.plan.quant
    forced = placed.plan.exchange == "auto" and all_to_all(placed.plan)
    start = "# Run on all nodes with LEADER (address of the instance's first node) and NODE_RANK (0 on that node) set."
    if launch.mpi:
        start = f"# Run under MPI with a process per rank: mpirun -n {placed.plan.ranks} --npernode {where.devices}."
    overlap = "# Two microbatches overlap only under an all-to-all exchange: the command asks for one."
    lines = [
        "#!/bin/sh",
        f"# Instances: {placed.pool.instances}, each on {where.nodes} node(s) with {where.devices} device(s).",
        start,
        f"# Weights: attention {quant.attention}, dense {quant.dense}, experts {quant.experts}; cache {quant.kv}.",
        *(f"# {note}." for note in launch.notes),
        *([overlap] if forced else []),
        "set -eu",
        shell(launch),
    ]
    return "\n".join(lines) + "\n"


def router(to: str, pools: Sequence[Placed], version: str = "") -> dict[str, str]:
    """What sends a request first to prefill, then to decode, in the target's own way."""
    urls: dict[str, list[str]] = {placed.pool.role: addresses(placed) for placed in pools}
    if to == "mindie":
        return {"user_config.json": user_config(pools, image(to, pools[0].machine, version))}
    if to == "trtllm":
        servers = {
            f"{kind}_servers": {"num_instances": len(urls[role]), "urls": urls[role]}
            for kind, role in (("context", "prefill"), ("generation", "decode"))
        }
        text = yaml.safe_dump({"hostname": "0.0.0.0", "port": pools[0].port, **servers}, sort_keys=False)
        return {"router.sh": _router_script("trtllm-serve disaggregated -c router.yaml"), "router.yaml": text}
    words = [word for role in urls for url in urls[role] for word in (f"--{role}", f"http://{url}")]
    command = [TARGETS[to].router, *words, "--host 0.0.0.0 --port", str(pools[0].port)]
    return {"router.sh": _router_script(" ".join(command))}


def _router_script(command: str) -> str:
    note = "# Sends requests to the instances; put their addresses where they are not in Kubernetes."
    return f"#!/bin/sh\n{note}\nexec {command}\n"
