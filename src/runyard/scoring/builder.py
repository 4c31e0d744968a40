"""Puts a program together: fresh names for tensors and constants."""

from typing import Any, Dict, List, Optional, Sequence

from runyard.protocol.scoring import ModelFacts
from runyard.scoring.operators import OPERATORS
from runyard.scoring.program import Program, Step


class CannotCompileError(Exception):
    """The model has a part that no operator of ours does exactly; the message names it."""


class Builder:
    """The steps and constants of one program."""

    def __init__(self) -> None:
        self.steps: List[Step] = []
        self.constants: Dict[str, Any] = {}
        self.results: Dict[str, Dict[str, str]] = {}

    def constant(self, value: Any) -> str:
        """Keep an array; returns its name."""
        import numpy

        array = numpy.ascontiguousarray(value).reshape(numpy.shape(value))
        if array.dtype.kind not in "biuf":
            raise CannotCompileError(f"constants of the type {array.dtype}")
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def add(self, operator: str, inputs: Sequence[str], output: Optional[str] = None, **attributes: Any) -> str:
        """One more step; returns the name of what it makes."""
        if operator not in OPERATORS:
            raise CannotCompileError(f"the operator {operator}")
        name = output or f"t{len(self.steps)}"
        self.steps.append(Step(operator, tuple(inputs), name, attributes))
        return name

    def program(self, facts: ModelFacts) -> Program:
        """What was put together."""
        return Program(facts, tuple(self.steps), self.results)
