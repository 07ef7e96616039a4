"""Joining a captured program's kernels: fewer of them, never more bytes, products as they were, dependencies kept."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from taicang.ops import Gemm, Pointwise
from taicang.virtual.capture import BLOCK, KERNEL, RECORD, WAIT_STREAM, Capture, Rank
from taicang.virtual.fusion import fuse
from taicang.virtual.operators import Kernel

SIZE = 1 << 20
STEP = st.tuples(
    st.sampled_from(["pointwise"] * 5 + ["product", "wait", "event"]),
    st.lists(st.integers(0, 40), min_size=1, max_size=3),
    st.integers(0, 1),
    st.sampled_from(["forward", "backward"]),
)


def program(steps):
    """A rank whose every kernel reads some earlier tensors and makes one."""
    kernels, work, operands, changes = [], [], [], []
    made = 1
    changes.append((0, 0, SIZE, SIZE))
    for kind, read, stream, phase in steps:
        place = len(work)
        if kind == "wait":
            work.append((WAIT_STREAM, stream, 0))
            continue
        if kind == "event":
            work.append((RECORD, stream, place))
            work.append((BLOCK, 1 - stream, place))
            continue
        inputs = sorted({each % made for each in read})
        op = (
            Pointwise(kind="activation", elements=SIZE, moved_bytes=(len(inputs) + 1) * SIZE, flop=made)
            if kind == "pointwise"
            else Gemm(m=made, n=8, k=8, batch=1, dtype="bf16")
        )
        kernels.append(Kernel(name=f"{kind}{made}", phase=phase, op=op, flop=0.0 if kind == "pointwise" else 1.0))
        work.append((KERNEL, stream, len(kernels) - 1))
        operands += [(place, each, SIZE) for each in inputs] + [(place, made, -SIZE)]
        changes.append((place, made, SIZE, SIZE))
        made += 1

    def table(rows, width):
        return np.array(rows, np.int64).reshape(-1, width)

    return Rank(rank=0, kernels=tuple(kernels), work=table(work, 3), changes=table(changes, 4), notes=(), kinds={},
                operands=table(operands, 3), invented={})  # fmt: skip


def launched(rank):
    return [rank.kernels[value] for what, _, value in rank.work.tolist() if what == KERNEL]


def moved(kernels):
    return sum(each.op.moved_bytes for each in kernels if isinstance(each.op, Pointwise))


@given(st.lists(STEP, max_size=40))
def test_fewer_kernels_and_no_more_bytes(steps):
    rank = program(steps)
    made = fuse(Capture(command=(), machine="", world=1, torch="", ranks=(rank,))).ranks[0]
    before, after = launched(rank), launched(made)
    assert len(after) <= len(before)
    assert moved(after) <= moved(before)
    assert [each for each in after if isinstance(each.op, Gemm)] == [e for e in before if isinstance(e.op, Gemm)]
    assert sum(e.op.flop for e in after if isinstance(e.op, Pointwise)) == sum(
        e.op.flop for e in before if isinstance(e.op, Pointwise)
    )
    others = made.work[made.work[:, 0] != KERNEL].tolist()
    assert others == rank.work[rank.work[:, 0] != KERNEL].tolist()


@given(st.lists(STEP, max_size=40))
def test_nothing_is_read_before_it_is_made(steps):
    rank = program(steps)
    made = fuse(Capture(command=(), machine="", world=1, torch="", ranks=(rank,))).ranks[0]
    names = [kernel.name for kernel in rank.kernels]
    # a product's inputs were made by kernels that stand before it, alone or joined with others
    order = {}
    for at, kernel in enumerate(launched(made)):
        for name in kernel.name.replace(" and ", "+").split("+"):
            order[name] = at
    made_at = {number: place for place, number, size in rank.operands.tolist() if size < 0}
    for place, number, size in rank.operands.tolist():
        reader = names[rank.work[place, 2]]
        if size < 0 or number not in made_at or not reader.startswith("product"):
            continue
        begin, stream = made_at[number], rank.work[made_at[number], 1]
        # a program that does not wait for another stream has no order there either
        waited = any(what != KERNEL and at == stream for what, at, _ in rank.work[begin:place].tolist())
        writer = names[rank.work[begin, 2]]
        if writer in order and reader in order and (rank.work[place, 1] == stream or waited):
            assert order[writer] < order[reader]


def test_a_chain_reads_its_inputs_and_writes_its_end():
    chain = [("pointwise", [0], 0, "forward"), ("pointwise", [1], 0, "forward"), ("pointwise", [2], 0, "forward"),
             ("product", [3], 0, "forward")]  # fmt: skip
    made = fuse(Capture(command=(), machine="", world=1, torch="", ranks=(program(chain),))).ranks[0]
    kernel, _ = launched(made)
    assert kernel.op.moved_bytes == 2 * SIZE
