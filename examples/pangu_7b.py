# ruff: noqa: T201
"""A 7B model "in 18 days on Ascend against 5 on H20", and "20,000 yuan of electricity a month per card": can it be?

No primary source of either figure is known. The script predicts both clusters with equal cards, then asks which card
counts or which software would make 18 against 5 true, and what a card would have to draw for that bill.
"""

from dataclasses import replace

from taicang.catalog import stack
from taicang.predict import Infeasible
from taicang.predict.train import TrainPrediction, train
from taicang.train_plans import TrainPlan

TOKENS = 2e12
CARDS = 1024
YUAN_PER_KWH = (0.4, 0.8)  # industrial tariffs in China, low and high
JOBS = {"Ascend 910B": f"atlas-800-a2-313t x {CARDS // 8}", "H20": f"hgx-h20 x {CARDS // 8}"}
PLAN = TrainPlan(global_batch=4096, seq=4096)

# what the first Megatron lacked, on NPUs, for which it was never written
OLD = replace(stack("megatron-classic", ascend=True), runs_on=frozenset({"huawei"}))

found: dict[str, TrainPrediction] = {}
for name, machine in JOBS.items():
    result = train("openpangu-embedded-7b", machine, PLAN, tokens=TOKENS, searched=True)
    if isinstance(result, Infeasible) or result.run is None:
        raise SystemExit(f"{name}: does not fit")
    found[name] = result
    print(f"{name}: {CARDS} cards, {result.run.seconds / 86400:.1f} days for 2T tokens, MFU {result.mfu_ratio:.0%}")

ascend, h20 = (found[name].run.seconds for name in JOBS)  # type: ignore[union-attr]
print(f"\nequal cards: Ascend takes {ascend / h20:.2f} times as long as H20; the claim says {18 / 5:.1f} times")
print(f"true if the H20 cluster had {18 / 5 * h20 / ascend:.1f} times the cards,")
mfu = found["Ascend 910B"].mfu_ratio * ascend / h20 / (18 / 5)
print(f"or at equal cards if software reached an MFU of {mfu:.0%} on Ascend (published runs: 43 % to 52 %)")

layouts = {"none": PLAN, "full recompute, small microbatches": replace(PLAN, tp=8, recompute="full", sp=False)}
for label, plan in layouts.items():
    slow = train("openpangu-embedded-7b", JOBS["Ascend 910B"], replace(plan, dp=0, zero=1), stack=OLD)
    if isinstance(slow, TrainPrediction):
        print(f"immature software ({label}; no overlap, no fused attention): MFU {slow.mfu_ratio:.0%}")

power = found["Ascend 910B"].power_w_per_chip or 0.0
for price in YUAN_PER_KWH:
    bill = power * 1.25 / 1e3 * 720 * price
    need = 20_000 / (720 * price)
    print(f"at {price} yuan/kWh a card costs {bill:,.0f} yuan a month; 20,000 yuan would take {need:.0f} kW per card")
