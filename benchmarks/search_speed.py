"""CPU seconds of a whole search in process, and candidates per second: python benchmarks/search_speed.py [MODEL...]

The job is the one that NVIDIA's AIConfigurator documents (4000 + 1000 tokens, TTFT 2 s, TPOT 50 ms). Peers, measured
on one core: AIConfigurator 9 to 72 s of CPU; Huawei's msModeling 57 s for three layouts of a 32B model; Calculon about
700 candidates a second. A candidate is a layout with a batch, a draft length and (aggregated) a chunk size; pairings of
prefill and decode pools come on top and are not counted here.
"""

import sys
import time

from taicang.search.door import formats, prepare
from taicang.search.run import Ask, search
from taicang.search.space import WIDE, default

MODELS = sys.argv[1:] or ("deepseek-v3", "qwen3-235b-a22b", "llama-3.1-70b", "llama-3.1-405b")
MACHINES = ("hgx-h200 x 4", "gb200-nvl72")


def measured(model, machine, wide, rounds=3):
    job = prepare(model, machine, input_tokens=4000, output_tokens=1000, ttft_s=2.0, tpot_s=0.05)
    quants, space = formats(["auto"], job), WIDE if wide else default(job.model)
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        found = search(job, quants, space, Ask())
        seconds.append(time.process_time() - start)
    return found, min(seconds)


def main():
    for wide in (False, True):
        print("wide space" if wide else "standard space")
        for model in MODELS:
            for machine in MACHINES:
                found, seconds = measured(model, machine, wide)
                counts = found.counts
                best = f"{found.best[0].output_tokens_per_s_per_chip:7.0f} tok/s/chip" if found.best else "infeasible"
                print(
                    f"  {model:16s} {machine:13s} {counts.priced:9,} candidates, {counts.combinations:15,} pairings "
                    f"{seconds:5.2f} s  {counts.priced / seconds:9,.0f}/s  {best}"
                )


if __name__ == "__main__":
    main()
