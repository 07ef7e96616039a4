"""The main job: from a model, a machine and a load to a prediction that says how far it can be trusted.

What is named here is imported when it is first asked for: a replay needs none of it, and starts sooner.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taicang.predict.explanation import explain, to_frame
    from taicang.predict.prediction import Infeasible, Prediction, Served
    from taicang.predict.serving import infer

__all__ = ["Infeasible", "Prediction", "Served", "explain", "infer", "to_frame"]

_PLACES = {
    "Infeasible": "prediction",
    "Prediction": "prediction",
    "Served": "prediction",
    "explain": "explanation",
    "infer": "serving",
    "to_frame": "explanation",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
