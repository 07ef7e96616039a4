"""A program that does what a plan says, against ``taicang train`` of that plan: FLOPs, bytes, memory, time."""

import json
import random
from dataclasses import dataclass

import pytest
from running import PROGRAMS, TORCH, call, run

pytestmark = TORCH
STACK = ("--stack", "torchtitan@2024-12")  # its loss is eager, as the program's


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

    def program(self):
        """Options of the program."""
        named = ("layers", "hidden", "inter", "heads", "kv_heads", "vocab", "seq", "batch", "tp", "pp", "micro")
        words = [each for name in named for each in (f"--{name.replace('_', '-')}", getattr(self, name))]
        return [*words, *(["--keep", "recompute"] if self.recompute else [])]

    def config(self):
        """The model as a Hugging Face file."""
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": self.hidden,
            "intermediate_size": self.inter, "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "vocab_size": self.vocab, "max_position_embeddings": self.seq,
            "tie_word_embeddings": False, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-5,
        }  # fmt: skip

    @property
    def dp(self):
        """Ranks of a sharding group."""
        return self.ranks // self.tp // self.pp

    def plan(self):
        """Options of ``taicang train``."""
        many = self.batch * self.micro * self.dp
        words = [
            "--tp",
            self.tp,
            "--pp",
            self.pp,
            "--zero",
            "fsdp2",
            "--global-batch",
            many,
            "--micro-batch",
            self.batch,
        ]
        return [*words, "--seq", self.seq, "--recompute", "full" if self.recompute else "none",
                "--gradients", "fp32", *STACK]  # fmt: skip

    def tensors(self, first, last):
        """Shapes of the parameters of one stage on one rank, by what gathers them: the layers, and all else."""
        tp, kv = self.tp, self.hidden // self.heads * self.kv_heads
        layer = [(self.hidden,), (self.hidden,), (self.hidden // tp, self.hidden), (kv // tp, self.hidden)]
        layer += [(kv // tp, self.hidden), (self.hidden, self.hidden // tp)]
        layer += [(self.inter // tp, self.hidden)] * 2 + [(self.hidden, self.inter // tp)]
        edge = [(self.vocab // tp, self.hidden)] * first + [(self.hidden,), (self.vocab // tp, self.hidden)] * last
        return layer * (self.layers // self.pp), edge

    def padded(self, shapes):
        """Elements of ``shapes`` once each is cut into equal shards along its first dimension."""
        total = 0
        for first, *rest in shapes:
            many = -(-first // self.dp) * self.dp
            for each in rest:
                many *= each
            total += many
        return total

    def held(self, memory):
        """Bytes that this program holds at its peak, from the plan's: what differs, by name."""
        logits = self.batch * self.seq * self.vocab / self.tp
        rows = self.batch * self.seq * self.inter / self.tp
        names = ("weights", "gradients", "optimizer", "activations", "working")
        terms = {
            "the plan": sum(memory[f"{name}_bytes"] for name in names) - memory["apart_bytes"],
            # of the allocator's, but for pipelines, whose logits stay
            "the block of 16-bit logits is reserved, not allocated": -logits * 2.0 if self.pp == 1 else 0.0,
            "an eager gate keeps its silu": 0.0 if self.recompute else rows * 2.0 * self.layers,
        }
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
    "pipeline, CloudMatrix384": Case(on="cloudmatrix384", ranks=768, pp=2, micro=4, seq=4096, recompute=True),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_program_agrees_with_the_plan(name, tmp_path):
    case = CASES[name]
    step, made = both(case, tmp_path)
    assert made["step_s"] == pytest.approx(step["seconds"], rel=0.08)
    full = max(each["memory"]["allocated_bytes"] for each in made["ranks"])
    assert full == pytest.approx(case.held(step["memory"]), rel=0.05)


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
        if case.heads % case.kv_heads == 0 and case.dp > 1 and case.hidden * case.inter < 1e8:
            return case


DRAWN = random.Random(17)


@pytest.mark.parametrize("case", [drawn(DRAWN) for _ in range(6)], ids=str)
def test_work_and_messages_are_the_plan_s_whatever_the_sizes(case, tmp_path):
    both(case, tmp_path)


def both(case, folder):
    """The plan's step and the program's run; what each computes and sends is the same."""
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
        layers, edge = case.tensors(first=at == 0, last=at == len(ranks) - 1)
        group = "world" if case.tp == case.pp == 1 else "mesh_dp"
        moved = each["collective_bytes"]
        # fp32 gradients are scattered once; bf16 weights are gathered for each pass, but for the outermost group's
        assert moved[f"reduce_scatter {group}"] == 4 * case.padded([*layers, *edge])
        # and the last layer's
        once = layers if case.pp > 1 else layers[: len(layers) // case.layers]
        twice = 0 if case.pp > 1 else 2 * (case.padded(layers) - case.padded(once))
        assert moved[f"all_gather {group}"] == 2 * (twice + case.padded(once) + case.padded(edge))
        if case.pp > 1:
            ways = 1 if at in (0, len(ranks) - 1) else 2  # a stage in the middle has two neighbours
            one = case.micro * case.batch * case.seq * case.hidden * 2
            assert moved["send pair"] == moved["recv pair"] == ways * one
        if case.tp > 1:
            # before attention, feed-forward and head rows are gathered, behind them and the embedding scattered;
            # backward the other way round, and each layer once more where it is computed again
            one = case.batch * case.seq * case.hidden * 2
            assert moved["reduce_scatter mesh_tp"] == one * ((5 if case.recompute else 4) * case.layers + 2)
            assert moved["all_gather mesh_tp"] == one * ((6 if case.recompute else 4) * case.layers + 2)
    return step, made
