# ruff: noqa: T201
"""One prediction from Python: the headline, the five largest operators of the decode step, and what was assumed."""

from taicang.predict import Infeasible, infer

result = infer("deepseek-r1", "cloudmatrix384", input_tokens=4096, output_tokens=256, tpot_s=0.05)
if isinstance(result, Infeasible):
    raise SystemExit(f"{result.reason}: needs {result.needed}, has {result.available}")
print(f"TPOT {result.tpot_s * 1e3:.0f} ms, {result.decode.tokens_per_s_per_chip:,.0f} tokens/s per chip in decode")
for piece in sorted(result.decode.step.slices, key=lambda piece: -float(piece.seconds))[:5]:
    print(f"{piece.label:24s} {float(piece.seconds) * 1e3:6.2f} ms  {piece.cost.binds}")
print("\n".join(result.assumptions))
