"""Above the waist: (model, plan, batch) -> operators of one rank."""

from taicang.lower.decoder import lower
from taicang.lower.program import Program, Task

__all__ = ["Program", "Task", "lower"]
