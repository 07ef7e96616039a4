"""Hand a training plan to Megatron-LM: a launch script and a Kubernetes job that ask for its ranks, no more.

Arguments as in Megatron-LM core 0.19. On Ascend it runs under MindSpeed, whose adaptor replaces what is CUDA's. What
they cannot express is refused with the reason, never approximated.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import Any

import yaml

from taicang.errors import NotModelled
from taicang.hardware import Machine
from taicang.models.types import Dense, Experts, GroupedQuery, Latent, Model, routed
from taicang.search.handover.kubernetes import label, resource
from taicang.train.stages import shares
from taicang.train_plans import TrainPlan
from taicang.train_plans.plan import ORDER

CONTEXT = {"ring": "p2p", "all_gather": "all_gather", "ulysses": "a2a"}
"""Megatron's names for kinds of context parallelism."""
MODULES = {
    "core": "core_attn", "norm": "layernorm", "up": "mla_up_proj", "mlp": "mlp", "experts": "moe",
    "shared": "shared_experts",
}  # fmt: skip
"""Megatron's names for what selective recompute repeats."""
IMAGES = {
    "nvidia": "nvcr.io/nvidia/nemo:25.04",
    "amd": "rocm/megatron-lm:v25.6_py312",
    "huawei": "quay.io/ascend/cann:8.1.rc1-910b-ubuntu22.04-py3.10",
}
"""Images to start from, by vendor of the chip; the one for Ascend lacks torch_npu, MindSpeed and Megatron-LM."""
ASCEND_FORMATS = ("bf16", "fp16")
ADAPTOR = "pretrain_mindspeed.py"
ADAPTED = ("import mindspeed.megatron_adaptor, runpy", 'runpy.run_path("pretrain_gpt.py", run_name="__main__")')
"""What stands before Megatron-LM's own script on Ascend."""
OVERLAPS = {"huawei": ["--use-ascend-mc2"], "nvidia": ["--tp-comm-overlap"]}
"""Arguments for tensor-parallel collectives beside products."""


def megatron(
    plan: TrainPlan, net: Model, machine: Machine, *, path: str = "", overlap: Collection[str] = ()
) -> dict[str, str]:
    """``train.sh`` and ``train.yaml`` (a PyTorchJob of Kubeflow's training operator) by name.

    ``path`` is the tokenizer's; ``overlap`` what the plan's prediction runs beside computing (``Stack.overlap``).
    Raises ``NotModelled`` for what Megatron-LM cannot express.
    """
    nodes, devices = place(plan, machine)
    vendor = machine.chip.vendor.lower()
    if vendor not in IMAGES:
        raise NotModelled(f"Megatron-LM has no image for chips of {machine.chip.vendor}; known are {', '.join(IMAGES)}")
    words = arguments(plan, net, path or net.name)
    if vendor == "huawei":
        _refuse_ascend(plan)
        words += ["--use-flash-attn"]
    if "tensor" in overlap and plan.tp > 1 and plan.sp:
        words += OVERLAPS.get(vendor, [])
    prepare = [f"printf '%s\\n' {' '.join(map(shlex.quote, ADAPTED))} > {ADAPTOR}"] if vendor == "huawei" else []
    start = [
        "torchrun", "--nnodes", str(nodes), "--nproc-per-node", str(devices), "--node-rank", "$NODE_RANK",
        "--master-addr", "$LEADER", "--master-port", "29500", ADAPTOR if prepare else "pretrain_gpt.py",
    ]  # fmt: skip
    line = " ".join(word if word.startswith("$") else shlex.quote(word) for word in [*start, *words])
    line += " --data-path $DATA"
    script = [
        "#!/bin/sh",
        f"# Run on {nodes} node(s) with {devices} device(s) each, in a checkout of Megatron-LM, with LEADER (address",
        "# of the first node), NODE_RANK (0 on that node) and DATA (prefix of the indexed data) set.",
        "set -eu",
        *prepare,
        f"exec {line}",
    ]
    job = yaml.safe_dump(_job(net, machine, nodes, devices, [*prepare, f"exec {line}"]), sort_keys=False)
    return {"train.sh": "\n".join(script) + "\n", "train.yaml": job}


def place(plan: TrainPlan, machine: Machine) -> tuple[int, int]:
    """Nodes and devices of each. Raises ``NotModelled`` where the ranks have no equal split."""
    room = machine.chips_per_node * machine.chip.dies
    nodes = -(-plan.ranks // room)
    if plan.ranks % nodes:
        raise NotModelled(f"{plan.ranks} ranks have no equal split on nodes of {room} devices")
    return nodes, plan.ranks // nodes


def arguments(plan: TrainPlan, net: Model, path: str) -> list[str]:
    """Arguments of ``pretrain_gpt.py``."""
    _refuse(plan, net)
    words = _model(net, path) + _layout(plan, net) + _memory(plan, net)
    words += ["--micro-batch-size", str(plan.micro_batch), "--global-batch-size", str(plan.global_batch)]
    words += ["--seq-length", str(plan.seq), "--max-position-embeddings", str(max(plan.seq, net.max_context))]
    precision = {"bf16": ["--bf16"], "fp16": ["--fp16"], "fp8": ["--bf16", "--fp8-format", "hybrid"]}
    precision["fp8_block"] = [*precision["fp8"], "--fp8-recipe", "blockwise"]
    precision["mxfp8"] = ["--bf16", "--fp8-format", "e4m3", "--fp8-recipe", "mxfp8"]
    words += precision[plan.recipe.name]
    return words


def _refuse(plan: TrainPlan, net: Model) -> None:
    mixers = {type(block.attention) for block in net.blocks}
    reasons = {
        f"{plan.recipe.name} products": plan.recipe.name not in ("bf16", "fp16", "fp8", "fp8_block", "mxfp8"),
        f"the {plan.schedule} schedule": plan.schedule != "1f1b",
        "a pipeline that drains within a step": plan.runs > 1,
        f"the order {plan.order} of its axes": plan.order != ORDER,
        "frozen weights with adapters": plan.trained_ratio < 1.0,
        "what is offloaded as DeepSpeed does it": plan.offload != "none",
        "activations in host memory, of layers by their share": plan.activations_away_ratio > 0,
        "documents in one sequence that do not see each other": plan.document_tokens > 0,
        f"gradients sharded without the weights (ZeRO {plan.zero})": plan.zero == 2,
        "pipeline stages with sharded weights": plan.zero == 3 and plan.pp > 1,
        "a mixer that is not softmax attention": not mixers <= {GroupedQuery, Latent},
        "layers of different attention": len({block.attention for block in net.blocks}) > 1,
        "moments in fewer bits without a distributed optimizer": plan.moments != "fp32" and plan.zero == 0,
    }
    for reason, holds in reasons.items():
        if holds:
            raise NotModelled(f"Megatron-LM cannot express this plan: {reason}")


def _refuse_ascend(plan: TrainPlan) -> None:
    if plan.zero == 3:
        raise NotModelled("MindSpeed does not run Megatron-LM's FSDP: plan with --zero 1")
    if plan.recipe.name not in ASCEND_FORMATS:
        raise NotModelled(f"MindSpeed is handed {' or '.join(ASCEND_FORMATS)} plans, not {plan.recipe.name} ones")


def _model(net: Model, path: str) -> list[str]:
    mixer = net.blocks[0].attention
    dense = next((b.ffn.inter for b in net.blocks if isinstance(b.ffn, Dense)), 0)
    experts = routed(net)
    gated = net.blocks[-1].ffn.gated
    values: dict[str, Any] = {
        "num-layers": net.layers, "hidden-size": net.hidden, "vocab-size": net.vocab,
        "ffn-hidden-size": dense or (experts.inter if experts else 0),
        "num-attention-heads": getattr(mixer, "heads", 0), "tokenizer-type": "HuggingFaceTokenizer",
        "tokenizer-model": path, "normalization": "RMSNorm",
        "position-embedding-type": "learned_absolute" if net.position_embeddings else "rope",
    }  # fmt: skip
    flags = ["disable-bias-linear"] if not getattr(mixer, "bias", False) else []
    flags += ["swiglu"] if gated else []
    flags += [] if net.tied_embeddings else ["untie-embeddings-and-output-weights"]
    if isinstance(mixer, GroupedQuery):
        values["kv-channels"] = mixer.head_dim
        flags += ["qk-layernorm"] if mixer.qk_norm else []
        if mixer.kv_heads < mixer.heads:
            flags += ["group-query-attention"]
            values["num-query-groups"] = mixer.kv_heads
    if isinstance(mixer, Latent):
        flags += ["multi-latent-attention"]
        values |= {"kv-lora-rank": mixer.kv_lora, "qk-head-dim": mixer.nope_dim, "qk-pos-emb-head-dim": mixer.rope_dim}
        values |= {"v-head-dim": mixer.v_dim} | ({"q-lora-rank": mixer.q_lora} if mixer.q_lora else {})
    if experts:
        values |= _experts(net, experts)
        flags += ["moe-grouped-gemm"]
    if net.mtp_layers:
        values["mtp-num-layers"] = net.mtp_layers
    return [*(w for key, value in values.items() for w in (f"--{key}", str(value))), *(f"--{flag}" for flag in flags)]


def _experts(net: Model, experts: Experts) -> dict[str, Any]:
    pattern = "+".join(f"[{int(isinstance(block.ffn, Experts))}]*{block.count}" for block in net.blocks)
    values: dict[str, Any] = {
        "num-experts": experts.experts, "moe-router-topk": experts.topk, "moe-ffn-hidden-size": experts.inter,
        "moe-layer-freq": f"({pattern})", "moe-token-dispatcher-type": "alltoall",
    }  # fmt: skip
    if experts.shared_inter:
        values["moe-shared-expert-intermediate-size"] = experts.shared_inter
    if experts.groups > 1:
        values |= {"moe-router-num-groups": experts.groups, "moe-router-group-topk": experts.topk_groups}
    return values


def _layout(plan: TrainPlan, net: Model) -> list[str]:
    degrees = {
        "tensor-model-parallel-size": plan.tp,
        "pipeline-model-parallel-size": plan.pp,
        "context-parallel-size": plan.cp,
        "expert-model-parallel-size": plan.ep,
        "expert-tensor-parallel-size": plan.etp,
    }
    words = [word for key, value in degrees.items() for word in (f"--{key}", str(value))]
    if plan.stages or net.layers % plan.chunks:
        words += ["--pipeline-model-parallel-layout", _stages(plan, net)]
    elif plan.vpp > 1:
        words += ["--num-virtual-stages-per-pipeline-rank", str(plan.vpp)]
    words += ["--cp-comm-type", CONTEXT[plan.context]] if plan.cp > 1 else []
    return words + (["--sequence-parallel"] if plan.sp and plan.tp > 1 else [])


def _stages(plan: TrainPlan, net: Model) -> str:
    """Layers of each chunk in Megatron's letters: E embedding, t layer, m MTP layer, L head."""
    return "|".join(
        "E" * each.embedding + "t" * len(each.blocks) + "m" * (net.mtp_layers * each.mtp) + "L" * each.head
        for each in shares(net, plan)
    )


def _memory(plan: TrainPlan, net: Model) -> list[str]:
    words = []
    if plan.gradients == "bf16" and plan.recipe.name != "fp16":  # in 32 bits unless told otherwise
        words = ["--grad-reduce-in-bf16"]
    if plan.gradients == "fp32" and plan.recipe.name == "fp16":
        words = ["--accumulate-allreduce-grads-in-fp32"]
    if plan.zero == 1:
        words += ["--use-distributed-optimizer", "--overlap-grad-reduce", "--overlap-param-gather"]
    if plan.zero == 3:
        words += ["--use-megatron-fsdp", "--data-parallel-sharding-strategy", "optim_grads_params"]
    if plan.shard:
        copies = plan.dp * plan.cp // plan.shard
        words += ["--num-distributed-optimizer-instances", str(copies)]
    if plan.moments != "fp32":
        words += [
            "--use-precision-aware-optimizer",
            "--exp-avg-dtype",
            plan.moments,
            "--exp-avg-sq-dtype",
            plan.moments,
        ]
    if plan.recompute == "selective":
        words += ["--recompute-granularity", "selective", "--recompute-modules"]
        words += [MODULES[name] for name in plan.recompute_modules]
    if plan.recompute == "full":
        words += ["--recompute-granularity", "full", "--recompute-method"]
        each = round(net.layers / plan.chunks * plan.recompute_ratio)
        words += (
            ["uniform", "--recompute-num-layers", "1"]
            if plan.recompute_ratio == 1.0
            else ["block", "--recompute-num-layers", str(each)]
        )
    return words


def _job(net: Model, machine: Machine, nodes: int, devices: int, lines: list[str]) -> dict[str, Any]:
    name = label(f"train-{net.name}")
    body = f"export NODE_RANK=$RANK LEADER=$MASTER_ADDR\ncd /opt/megatron-lm && {' && '.join(lines)}"
    container = {
        "name": "pytorch", "image": IMAGES[machine.chip.vendor.lower()], "command": ["/bin/sh", "-c", body],
        "resources": {"limits": {resource(machine): devices}},
    }  # fmt: skip
    template = {"spec": {"containers": [container]}}
    replicas = {"Master": {"replicas": 1, "template": template}}
    if nodes > 1:
        replicas["Worker"] = {"replicas": nodes - 1, "template": template}
    return {
        "apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": name},
        "spec": {"nprocPerNode": str(devices), "pytorchReplicaSpecs": replicas},
    }  # fmt: skip
