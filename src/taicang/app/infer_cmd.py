"""``taicang infer``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from taicang.app.ask_cmd import Asking
from taicang.app.load_options import run_from
from taicang.app.options import command, give, write_chakra
from taicang.search.words import MODES


@command("infer", Asking)
def infer(model: str, machine: str, as_json: bool, layers: bool, page: Path | None, **options: Any) -> int:
    """Serve MODEL (a built-in name or a Hugging Face config.json) on a machine."""
    from taicang.app.render_bands import cost_fields, of_tokens, quoted
    from taicang.catalog.models import model as load_model
    from taicang.predict import Infeasible
    from taicang.predict.serving import answer
    from taicang.records import plain
    from taicang.search.door import plan_of, settle

    net = load_model(model, approximate=options["approximate"])
    run = run_from(options, net, machine, plan=plan_of(options, net), modes=MODES[options["mode"]])
    result = answer(run)
    fits = not isinstance(result, Infeasible)
    quote = None if isinstance(result, Infeasible) else quoted(machine, options["sets"], partial(of_tokens, result))

    def show() -> None:
        from taicang.app.render import show_infeasible, show_prediction

        if isinstance(result, Infeasible):
            show_infeasible(result)
        else:
            show_prediction(result, whole=layers, quote=quote)

    fields = {}
    if as_json or page:
        fields = {"infeasible": not fits, **plain(result), **({} if quote is None else cost_fields(quote))}
    code = give("infer", fields, show, as_json=as_json, page=page, title=f"{model} on {machine}", feasible=fits)
    if options["chakra"] is not None and not isinstance(result, Infeasible):
        from taicang.predict.chakra import serving_graph

        prediction = getattr(result, "prediction", result)
        on = settle(run, net, machine)[1]
        write_chakra(serving_graph(getattr(prediction, options["chakra_phase"]), on, net.name), options["chakra"])
    return code
