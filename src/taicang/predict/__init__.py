"""The main job: from a model, a machine and a load to a prediction that says how far it can be trusted."""

from taicang.predict.explain import explain, to_frame
from taicang.predict.infer import infer
from taicang.predict.prediction import Infeasible, Prediction

__all__ = ["Infeasible", "Prediction", "explain", "infer", "to_frame"]
