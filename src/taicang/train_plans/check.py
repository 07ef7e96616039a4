"""Which training plans can run."""

from __future__ import annotations

import math

from taicang.errors import InvalidPlan, UnknownName
from taicang.train_plans.placement import axes_of, expert_shard, seed_of, side_by_side
from taicang.train_plans.plan import WAVES, TrainPlan
from taicang.train_plans.recipe import GRADIENTS, MASTERS, MOMENTS


def check(plan: TrainPlan, layers: int) -> None:
    """Raise ``InvalidPlan`` for a layout that cannot run, naming the rule and by how much it is broken.

    ``UnknownName`` for a format of the optimizer that there is not.
    """
    _formats(plan)
    share = plan.dp * plan.micro_batch
    if plan.global_batch % share or plan.global_batch < share:
        raise InvalidPlan(
            f"global batch {plan.global_batch} is not a multiple of dp x micro batch = {plan.dp} x {plan.micro_batch}"
        )
    local, each = plan.local_batch, plan.global_batch // plan.dp
    if local and (local % plan.micro_batch or each % local):
        raise InvalidPlan(
            f"a local batch of {local} is no multiple of the micro batch of {plan.micro_batch}, or does not divide the "
            f"{each} sequences of a rank"
        )
    if plan.seq % plan.cp:
        raise InvalidPlan(f"cp={plan.cp} does not divide the sequence of {plan.seq} tokens")
    _documents(plan)
    _order(plan)
    _sharding(plan)
    _offload(plan)
    _schedule(plan, layers)


def _documents(plan: TrainPlan) -> None:
    mean, spread = plan.document_tokens, plan.document_spread_ratio
    if not mean and (plan.padded or spread):
        raise InvalidPlan("the mean length of documents is not said: --documents TOKENS")
    if mean and not 1.0 <= mean <= plan.seq:
        raise InvalidPlan(f"documents of {mean:g} tokens: at least 1, and at most the sequence of {plan.seq}")
    if not 0.0 <= spread < math.inf:
        raise InvalidPlan(f"documents that vary by {spread:g} of their mean: a number from 0 on")


def _formats(plan: TrainPlan) -> None:
    if plan.recipe.frozen and plan.trained_ratio > 0:
        raise InvalidPlan(f"weights of {plan.recipe.name} are frozen: only adapters train beside them (--lora)")
    if plan.moments not in MOMENTS:
        raise UnknownName("format of moments", plan.moments, MOMENTS)
    if plan.master not in MASTERS:
        raise UnknownName("kind of master weights", plan.master, MASTERS)
    if plan.gradients and plan.gradients not in GRADIENTS:
        raise UnknownName("format of gradients", plan.gradients, GRADIENTS)


def _order(plan: TrainPlan) -> None:
    axes = axes_of(plan.order)
    stage, wide = plan.tp * plan.cp * plan.dp, plan.ep * plan.etp
    if stage % wide:
        raise InvalidPlan(f"ep x etp = {plan.ep} x {plan.etp} does not divide the {stage} ranks of a pipeline stage")
    if wide == 1 or plan.pp == 1 or seed_of(plan.order) is not None:
        return
    inner = axes[: axes.index("pp")]
    dense, experts = 1, 1
    for axis in inner:
        dense *= {"tp": plan.tp, "cp": plan.cp, "dp": plan.dp}.get(axis, 1)
        experts *= {"tp": plan.etp, "ep": plan.ep, "dp": stage // wide}.get(axis, 1)
    if dense != experts:
        raise InvalidPlan(f"order {plan.order}: dense layers have {dense} ranks inside pp and experts {experts}")


def _sharding(plan: TrainPlan) -> None:
    replicas = plan.dp * plan.cp
    if plan.shard and replicas % plan.shard:
        raise InvalidPlan(f"shard={plan.shard} does not divide dp x cp = {replicas} data-parallel ranks")
    experts = max(plan.tp * replicas // (plan.ep * plan.etp), 1)
    if plan.shard and experts % expert_shard(plan, experts):
        raise InvalidPlan(f"shard={plan.shard} does not divide the {experts} ranks that hold the same experts")
    if plan.shard and not side_by_side(plan.order):
        raise InvalidPlan(f"shard groups need cp and dp side by side, not {plan.order}")


def _offload(plan: TrainPlan) -> None:
    if plan.offload == "none":
        if plan.nvme_bytes_per_s:
            raise InvalidPlan("an NVMe bandwidth needs something that is offloaded: --offload optimizer or weights")
        return
    least = 3 if plan.offload == "weights" or plan.nvme_bytes_per_s else 1
    if plan.zero < least:
        where = " to NVMe" if plan.nvme_bytes_per_s else ""
        raise InvalidPlan(f"offload of {plan.offload}{where} needs --zero {least} or more, not {plan.zero}")
    if plan.pp > 1:
        raise InvalidPlan(f"offload is for data parallelism: pp={plan.pp} must be 1")


def _schedule(plan: TrainPlan, layers: int) -> None:
    pp, micro = plan.pp, plan.microbatches // plan.runs
    if plan.chunks > layers + 2:
        raise InvalidPlan(f"pp x vpp = {plan.chunks} chunks exceed {layers} layers by {plan.chunks - layers}")
    wave = plan.schedule in WAVES
    if plan.vpp > 1 and plan.schedule in ("zero_bubble", "zb_2p", "dualpipe"):
        raise InvalidPlan(f"{plan.schedule} runs one chunk per stage, not vpp={plan.vpp}")
    if wave and plan.vpp != 2:
        raise InvalidPlan(f"{plan.schedule} runs two chunks per stage, not vpp={plan.vpp}")
    if plan.schedule == "dualpipev" and micro < 2 * pp:
        raise InvalidPlan(f"dualpipev needs at least 2 x pp = {2 * pp} microbatches, not {micro}")
    if plan.vpp > 1 and not wave and micro % pp:
        raise InvalidPlan(f"interleaving needs microbatches ({micro}) that are a multiple of pp ({pp})")
    if plan.schedule == "dualpipe" and (pp % 2 or micro % 2 or micro < 2 * pp):
        raise InvalidPlan(
            f"dualpipe feeds both ends: it needs an even pp ({pp}) and an even number of microbatches ({micro}), at "
            f"least 2 x pp = {2 * pp}"
        )
