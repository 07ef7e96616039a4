"""Host time that the device waits for."""

from __future__ import annotations

import numpy as np

from taicang.cost.cost import Cost
from taicang.ops import Host
from taicang.stacks import Stack


def host(op: Host, stack: Stack) -> Cost:
    """Step scheduling, per-sequence work, graph launches and the idle gaps between a layer's kernels."""
    seconds = (
        stack.step_host_s
        + op.graphs * stack.graph_launch_s
        + op.sequences * stack.sequence_host_s
        + op.layers * stack.layer_gap_s
        + np.minimum(op.drafting, 1.0) * stack.draft_host_s
        + op.drafting * stack.draft_sequence_host_s
    )
    return Cost(seconds=seconds, latency_s=seconds, origin=f"stack {stack.name}")
