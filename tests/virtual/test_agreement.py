"""A program that does what a plan says, against ``taicang train`` of that plan: FLOPs, bytes, memory, time."""

import json
import random
from dataclasses import dataclass, replace

import pytest
from running import PROGRAMS, TORCH, call, run

pytestmark = TORCH
STACK = ("--stack", "torchtitan@2024-12")  # its loss is eager, as the program's


ATTENTION = (("attention", "forward"), ("attention_backward", "backward"))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A Llama's sizes, a plan, and where it runs."""

    on: str
    ranks: int
    layers: int = 16
    hidden: int = 4096
    inter: int = 14336
    heads: int = 32
    kv_heads: int = 8
    vocab: int = 128256
    seq: int = 8192
    batch: int = 1
    tp: int = 1
    pp: int = 1
    micro: int = 1
    recompute: bool = False
    way: str = "shards"
    shard: int = 0
    states: str = "mixed"
    dtype: str = "bf16"
    cp: int = 1
    context: str = "ring"
    ep: int = 1
    experts: int = 0
    topk: int = 2

    def program(self):
        """Options of the program."""
        named = ("layers", "hidden", "inter", "heads", "kv_heads", "vocab", "seq", "batch", "tp", "pp", "micro", "way",
                 "shard", "states", "dtype", "cp", "context", "ep", "experts", "topk")  # fmt: skip
        words = [each for name in named for each in (f"--{name.replace('_', '-')}", getattr(self, name))]
        return [*words, *(["--keep", "recompute"] if self.recompute else [])]

    def config(self):
        """The model as a Hugging Face file."""
        experts = {"num_local_experts": self.experts, "num_experts_per_tok": self.topk} if self.experts else {}
        kind = "mixtral" if self.experts else "llama"
        return experts | {
            "architectures": [f"{kind.capitalize()}ForCausalLM"], "model_type": kind, "hidden_size": self.hidden,
            "intermediate_size": self.inter, "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "vocab_size": self.vocab, "max_position_embeddings": self.seq,
            "tie_word_embeddings": False, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-5,
        }  # fmt: skip

    @property
    def dp(self):
        """Ranks that hold the same weights."""
        return self.ranks // self.tp // self.pp

    def plan(self):
        """Options of ``taicang train``."""
        many = self.batch * self.micro * self.dp // self.cp
        zero = {"shards": ["fsdp2"], "whole": ["fsdp2", "--no-reshard"], "hybrid": ["hsdp", "--shard", self.shard]}
        low = ["--master", "none", "--moments", "bf16", "--gradients", "bf16"]
        return [
            "--tp", self.tp, "--pp", self.pp, "--cp", self.cp, "--ep", self.ep, "--context", self.context,
            "--zero", *zero.get(self.way, [0]), "--global-batch", many, "--micro-batch", self.batch, "--seq", self.seq,
            "--recompute", "full" if self.recompute else "none", "--dtype", self.dtype,
            *(low if self.states == "low" else ["--gradients", "fp32"]), *STACK,
        ]  # fmt: skip

    def tensors(self, first, last):
        """Shapes of the parameters of one stage on one rank, by what gathers them: layers, experts that ranks divide
        among them, and all else; sharded along the first dimension."""
        tp, kv = self.tp, self.hidden // self.heads * self.kv_heads
        layer = [(self.hidden,), (self.hidden,), (self.hidden // tp, self.hidden), (kv // tp, self.hidden)]
        layer += [(kv // tp, self.hidden), (self.hidden, self.hidden // tp)]
        layer += [(self.experts, self.hidden)] if self.experts else []
        many = self.experts // self.ep or 1  # of experts it is the second dimension that is cut
        inner = [(self.inter // tp, self.hidden)] * 2 + [(self.hidden, self.inter // tp)]
        if self.experts:
            inner = [(self.hidden, many * self.inter)] * 2 + [(self.inter, many * self.hidden)]
        edge = [(self.vocab // tp, self.hidden)] * first + [(self.hidden,), (self.vocab // tp, self.hidden)] * last
        layers = self.layers // self.pp
        return (layer * layers, inner * layers, edge) if self.ep > 1 else ((layer + inner) * layers, [], edge)

    def padded(self, shapes, ranks):
        """Elements of ``shapes`` once each is cut into equal shards along its first dimension."""
        total = 0
        for first, *rest in shapes:
            many = -(-first // ranks) * ranks
            for each in rest:
                many *= each
            total += many
        return total

    def moved(self, at, stages):
        """Bytes of every collective of rank ``at`` of ``stages``."""
        layers, experts, edge = self.tensors(first=at == 0, last=at == stages - 1)
        size, passes, again = 2 if self.states == "low" else 4, 2 * self.layers - 1, int(self.recompute)
        if self.way == "replicas":
            return {"all_reduce world": 2 * self.padded([*layers, *edge], 1)}
        group = "world" if self.tp == self.pp == 1 else "mesh_dp"
        ranks, group = (self.shard, "mesh_shards") if self.way == "hybrid" else (self.dp, group)
        # gradients are scattered once; 16-bit weights are gathered for each pass, but for the outermost group's and the
        # last layer's
        if self.pp > 1 or self.way == "whole":
            passes = self.layers
        found = {
            f"reduce_scatter {group}": size * self.padded([*layers, *edge], ranks),
            f"all_gather {group}": 2 * (self.padded(layers, ranks) * passes // self.layers + self.padded(edge, ranks)),
        }
        if self.way == "hybrid":
            found["all_reduce mesh_copies"] = found[f"reduce_scatter {group}"] // self.shard
        inner = "mesh_parts" if self.ranks > max(self.ep, self.cp) else "world"
        rows = self.batch * self.seq // self.cp
        if self.ep > 1:  # tokens go there and back, in each pass, and how many go ahead of them
            sent = self.layers * (4 + 2 * again) * rows * self.topk * self.hidden * 2
            found[f"all_to_all {inner}"] = sent + self.layers * (1 + again) * self.experts * 8
        if self.ep > 1 and self.ranks > self.ep:
            several = self.padded(experts, self.ranks // self.ep)
            found |= {
                "reduce_scatter mesh_rest": size * several,
                "all_gather mesh_rest": 2 * several * passes // self.layers,
            }
        if self.cp > 1:
            pair, one = rows * self.hidden // self.heads * self.kv_heads * 4, rows * self.hidden * 2
            back = self.layers * self.cp * 2 * pair  # gradients of keys and values go around in 32 bits
            hops = {"ulysses": (2 + again) * (2 * one + pair) * self.layers, "all_gather": back,
                    "ring": (2 + again) * (self.cp - 1) * pair * self.layers + back}  # fmt: skip
            found[f"all_to_all {inner}"] = hops[self.context]
            if self.context == "all_gather":
                found[f"all_gather {inner}"] = (2 + again) * self.cp * pair * self.layers
        if self.pp > 1:
            ways = 1 if at in (0, stages - 1) else 2  # a stage in the middle has two neighbours
            found |= dict.fromkeys(("send pair", "recv pair"), ways * self.micro * rows * self.hidden * 2)
        if self.tp > 1:
            # before attention, feed-forward and head rows are gathered, behind them and the embedding scattered;
            # backward the other way round, and each layer once more where it is computed again
            one = rows * self.hidden * 2
            found["reduce_scatter mesh_tp"] = one * ((4 + again) * self.layers + 2)
            found["all_gather mesh_tp"] = one * ((4 + 2 * again) * self.layers + 2)
        return found

    def held(self, memory):
        """Bytes that this program holds at its peak, from the plan's: what differs, by name."""
        tokens = self.batch * self.seq / self.cp / self.tp
        logits, rows = tokens * self.vocab, tokens * self.inter * (self.topk if self.experts else 1)
        sent = tokens * self.topk * self.hidden * 2.0 if self.experts else 0.0  # 16-bit rows of tokens for experts
        names = ("weights", "gradients", "optimizer", "activations", "working")
        kept = {
            "an eager gate keeps its silu": rows * 2.0,
            "routing weights are applied to what experts give, not inside them": sent,
            "index_add keeps what it adds": sent,
            "index_copy keeps what it puts in place": sent if self.ep > 1 else 0.0,
        }
        terms = {
            "the plan": sum(memory[f"{name}_bytes"] for name in names) - memory["apart_bytes"],
            # of the allocator's, but for pipelines, whose logits stay
            "the block of 16-bit logits is reserved, not allocated": -logits * 2.0 if self.pp == 1 else 0.0,
            "what layers keep": 0.0 if self.recompute else sum(kept.values()) * self.layers,
        }
        words = self.vocab * self.hidden * 2.0
        last = {  # in the backward pass, under tensor parallelism
            "states": memory["gradients_bytes"] + memory["optimizer_bytes"],
            "the gradient of word vectors is of all rows on every rank, until it is scattered": words,
            "this rank's part of it, and of the vectors themselves": 2.0 * words / self.tp,
        }
        return max(sum(terms.values()), sum(last.values()) if self.tp > 1 else 0.0)

    def spent_s(self, made, plan):
        """Seconds of the program's step, made like the plan's: what differs, by name."""
        slowest = max(made["ranks"], key=lambda rank: rank["step_s"])

        def seconds(name, phase):
            return sum(line["seconds"] for line in slowest["lines"] if (line["name"], line["phase"]) == (name, phase))

        parts = self.cp > 1 and self.context != "ulysses"
        terms = {
            "the program": made["step_s"],
            "rows of a sequence that are scattered or gathered along it are put in order by copies":
                -(seconds("cat", "forward") + seconds("cat", "backward")) * (self.tp > 1),
            "gradients of micro-batches are added up, and their outputs joined, by kernels":
                -(seconds("add", "backward") + seconds("cat", "forward")) * (self.pp > 1),
            "attention to parts of a sequence is a kernel for each":
                (plan["attention"] - sum(seconds(*each) for each in ATTENTION)) * parts,
        }  # fmt: skip
        return sum(terms.values())


CASES = {
    "8B, recompute, H100": Case(on="hgx-h100", ranks=8, layers=32, recompute=True),
    "7B, two sequences, A2": Case(on="atlas-800-a2", ranks=8, layers=32, inter=11008, kv_heads=32, vocab=32000,
                                  seq=4096, batch=2),
    "13B shape, GB200": Case(on="gb200-nvl72", ranks=72, layers=10, hidden=5120, inter=13824, heads=40, kv_heads=40,
                             vocab=32000, seq=4096, batch=2),
    "long, recompute, CloudMatrix384": Case(on="cloudmatrix384", ranks=768, layers=8, seq=24576, recompute=True),
    "tensor parallel, H100": Case(on="hgx-h100", ranks=8, tp=2, recompute=True),
    "tensor parallel, A2": Case(on="atlas-800-a2", ranks=8, tp=4, kv_heads=32, inter=11008, vocab=32000, batch=2,
                                recompute=True),
    "replicas, GB200": Case(on="gb200-nvl72", ranks=72, layers=8, hidden=5120, inter=15360, heads=40, kv_heads=4,
                            vocab=32000, recompute=True, way="replicas", states="low"),
    "hybrid, B200": Case(on="hgx-b200", ranks=8, layers=6, hidden=2560, inter=10240, heads=40, vocab=32000, batch=4,
                         way="hybrid", shard=2),
    "ulysses, A100": Case(on="hgx-a100", ranks=8, layers=6, hidden=2048, inter=4096, heads=16, kv_heads=16, seq=65536,
                          recompute=True, cp=4, context="ulysses"),
    "experts, H100": Case(on="hgx-h100 x 2", ranks=16, layers=4, hidden=6144, inter=3072, heads=48, kv_heads=16,
                          vocab=50304, seq=2048, batch=4, recompute=True, ep=2, experts=64),
    "short pipeline, GB200": Case(on="gb200-nvl72", ranks=72, layers=8, hidden=8192, inter=21760, heads=64, vocab=50304,
                                  seq=4096, batch=8, pp=2, micro=2),
    "pipeline, CloudMatrix384": Case(on="cloudmatrix384", ranks=768, pp=2, micro=4, seq=4096, recompute=True),
}  # fmt: skip


@pytest.fixture(autouse=True)
def growing(monkeypatch):
    """Segments that grow: a plan counts what is held, not what lies between."""
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


@pytest.mark.parametrize("name", CASES)
def test_a_program_agrees_with_the_plan(name, tmp_path):
    both(CASES[name], tmp_path)


MACHINES = {
    "hgx-h100": 8,
    "atlas-800-a2": 8,
    "gb200-nvl72": 72,
    "cloudmatrix384": 768,
    "hgx-h20 x 2": 16,
    "hgx-a100": 8,
}


def drawn(rng):
    """A model and a plan of any size that its layout allows."""
    while True:
        on = rng.choice(list(MACHINES))
        heads, width = rng.choice((16, 24, 32, 40, 48, 64)), rng.choice((64, 128))
        tp, pp = rng.choice(((1, 1), (1, 1), (2, 1), (4, 1), (1, 2), (1, 4)))
        case = Case(
            on=on, ranks=MACHINES[on], heads=heads, hidden=heads * width, kv_heads=rng.choice((4, 8, heads)),
            inter=256 * round(heads * width * rng.uniform(2.0, 4.0) / 256), layers=rng.choice((4, 8, 12, 16, 24)),
            vocab=rng.choice((32000, 50304, 65024, 128256, 151936)), seq=rng.choice((2048, 4096, 8192)),
            batch=rng.choice((1, 2, 4)), tp=tp, pp=pp, micro=pp * rng.choice((1, 2)) if pp > 1 else 1,
            recompute=rng.random() < 0.5,
        )  # fmt: skip
        if case.heads % case.kv_heads or case.dp < 2 or case.hidden * case.inter > 1e8:
            continue
        case = case if tp * pp > 1 else replace(case, **further(rng, case))
        shards = case.ranks // case.ep if case.experts else 1  # of the dimension of experts that FSDP2 cuts
        if case.hidden % shards or case.inter % shards:
            continue
        return case


def further(rng, case):
    """Ways that are not of tensor or pipeline parallelism."""
    many = rng.choice((2, 4, 8))
    wide = {"experts": 16, "topk": rng.choice((2, 4)), "inter": 256 * rng.choice((4, 8))}
    ways = [
        {}, {"way": "whole"}, {"way": "hybrid", "shard": min(many, 4)}, {"states": "low"}, {"dtype": "fp16"},
        {"way": "replicas", "states": "low"}, {"cp": many, "context": rng.choice(("ring", "all_gather"))},
        {"cp": many, "context": "ulysses", "kv_heads": case.heads}, wide | {"ep": rng.choice((1, many))},
    ]  # fmt: skip
    return rng.choice(ways)


DRAWN = random.Random(17)


@pytest.mark.parametrize("case", [drawn(DRAWN) for _ in range(12)], ids=str)
def test_a_program_agrees_whatever_the_sizes(case, tmp_path):
    both(case, tmp_path)


def both(case, folder):
    """The plan's step and the program's run: what is computed, sent and held is the same, and takes the same time."""
    path = folder / "config.json"
    path.write_text(json.dumps(case.config()))
    done = call("train", path, "--on", case.on, *case.plan(), "--json")
    assert done.returncode in (0, 1), done.stderr  # 1: it does not fit
    if done.returncode == 1:
        pytest.skip("the machine's memory does not hold it, says the plan")
    step = json.loads(done.stdout)["prediction"]["step"]
    # as a compiler runs it, and a host that is no bottleneck: what the plan takes for granted
    made = run("--on", case.on, "--fuse", "--host-issue", "1us", *STACK, PROGRAMS / "llama.py", *case.program())
    ranks = made["ranks"]
    assert sum(each["flop"] for each in ranks) / len(ranks) == pytest.approx(step["flop"] / case.ranks, rel=0.01)
    for at, each in enumerate(ranks):
        for name, size in case.moved(at, len(ranks)).items():
            # what ends a step, norms and the loss, sums single numbers
            assert each["collective_bytes"][name] == pytest.approx(size, abs=1024 * name.startswith("all_reduce")), name
    assert case.spent_s(made, step["spent"]) == pytest.approx(step["seconds"], rel=0.08)
    full = max(each["memory"]["allocated_bytes"] for each in ranks)
    assert full == pytest.approx(case.held(step["memory"]), rel=0.05)
    return made
