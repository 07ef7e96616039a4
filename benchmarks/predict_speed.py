"""One prediction in process, warm: a priced decode step and the whole of `infer`.

Peers, as published or measured by their users: NVIDIA AIConfigurator 7 ms memoised and 930 ms otherwise; Huawei's
msModeling 21 s. Run: python benchmarks/predict_speed.py [ROUNDS]
"""

import sys
import time

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.catalog.models import model
from taicang.plans import ServePlan, decode_batch
from taicang.predict import infer
from taicang.serve.setup import Setup, step

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5


def best_of(call, repeat=20):
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        for i in range(repeat):
            call(i)
        best = min(best, (time.process_time() - start) / repeat)
    return best


def main():
    machine, stack, net = catalog.machine("hgx-h200 x 4"), catalog.stack("sglang"), model("deepseek-r1")
    costs = cost_model(machine, stack)
    setup = Setup(model=net, plan=ServePlan(dp=32, ep=32), machine=machine, stack=stack, price=costs.price, skew=1.01)
    fresh = iter(range(1, 10**9))

    def new_batch(_):
        n = next(fresh)  # a batch never seen before, so that nothing is remembered
        step(setup, decode_batch(sequences=32.0 + n * 1e-6, context=4096.0 + n * 1e-6))

    print(f"priced step, new batch   {best_of(new_batch) * 1e3:6.2f} ms")
    seen = decode_batch(sequences=32.0, context=4096.0)
    print(f"priced step, seen batch  {best_of(lambda _: step(setup, seen)) * 1e3:6.2f} ms")

    def search(_):
        infer("deepseek-r1", "cloudmatrix384", input_tokens=4096, output_tokens=256, tpot_s=0.05)

    print(f"infer, all default plans {best_of(search, repeat=1) * 1e3:6.0f} ms")
    print("peers, one prediction:   AIConfigurator 7 ms memoised, 930 ms otherwise; msModeling 21,000 ms")


if __name__ == "__main__":
    main()
