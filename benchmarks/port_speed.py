"""How long it takes to read a repository of a million lines for its port.

python benchmarks/port_speed.py [LINES]
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

from taicang.catalog import porting
from taicang.port import report
from taicang.port.estimate import estimate
from taicang.port.scan import scan

PYTHON = (
    "class Layer{n}(nn.Module):\n"
    '    """A layer of {n} parts, which says cuda in words."""\n\n'
    "    def __init__(self, width, heads={n}, dropout=0.1):\n"
    "        super().__init__()\n"
    "        self.query = nn.Linear(width, width, bias=False)\n"
    "        self.norm = nn.LayerNorm(width)\n"
    "        self.heads, self.dropout = heads, dropout\n\n"
    "    def forward(self, x, mask=None):\n"
    "        batch, length, width = x.shape\n"
    "        q = self.query(self.norm(x)).view(batch, length, self.heads, -1).transpose(1, 2)\n"
    "        score = torch.matmul(q, q.transpose(-1, -2)) / (width / self.heads) ** 0.5\n"
    "        if mask is not None:\n"
    "            score = score.masked_fill(mask[:, None, None, :] == 0, float('-inf'))\n"
    "        out = torch.softmax(score, dim=-1) @ q  # attention\n"
    "        return out.transpose(1, 2).reshape(batch, length, width) + x\n\n\n"
)
HOT = (
    "def step{n}(model, batch):\n"
    "    batch = {{key: value.cuda(non_blocking=True) for key, value in batch.items()}}\n"
    "    if torch.cuda.is_available() and model.device.type == 'cuda':\n"
    "        torch.cuda.synchronize()\n"
    "    return model(**batch)\n\n\n"
)
NATIVE = (
    "template <typename T>\n__global__ void kernel{n}(const T* in, T* out, int count) {{\n"
    "  int i = blockIdx.x * blockDim.x + threadIdx.x;\n  // one value a thread\n"
    "  if (i < count) {{ out[i] = in[i] * static_cast<T>({n}); }}\n}}\n\n"
    "void launch{n}(float* a, float* b, int count) {{\n"
    '  kernel{n}<float><<<(count + 255) / 256, 256>>>(a, b, count);\n  printf("done %d", count);\n}}\n\n'
)


def write(root: Path, lines: int, seed: int = 0) -> int:
    """A repository of about ``lines`` lines: nine in ten of Python, the rest of CUDA, YAML and shell."""
    draw, written, number = random.Random(seed), 0, 0
    while written < lines:
        folder = root / f"package{number % 40}" / f"part{number % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").touch()
        if draw.random() < 0.9:
            blocks = [HOT if draw.random() < 0.15 else PYTHON for _ in range(draw.randint(5, 40))]
            other = f"from package{draw.randrange(40)} import part{draw.randrange(7)}"
            text = f"import torch\nfrom torch import nn\n{other}\n\n\n"
            name = f"module{number}.py"
        else:
            blocks, text, name = [NATIVE] * draw.randint(5, 60), "#include <cuda_runtime.h>\n", f"kernel{number}.cu"
        text += "".join(block.format(n=draw.randrange(1000)) for block in blocks)
        (folder / name).write_text(text, encoding="utf-8")
        written += text.count("\n")
        number += 1
    return written


def main() -> None:
    lines = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        written = write(root, lines)
        entry = str(next(root.rglob("module*.py")).relative_to(root))
        rules, operators = porting.rules("ascend"), porting.operators("ascend")
        for entries in ((), (entry,)):
            start = time.process_time()
            found = scan(root, rules, operators, entries)
            made = report.data(found, estimate(found, porting.effort()))
            spent = time.process_time() - start
            says = (
                f"{len(made['findings']):,} findings, {made['files']['counted']:,} of {len(found.files):,} files count"
            )
            print(f"{written:,} lines{' from an entry' if entries else ''}: {spent:.1f} CPU-s; {says}")


if __name__ == "__main__":
    main()
