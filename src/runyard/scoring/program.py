"""A compiled model: steps over named tensors, carried out by numpy alone, from any Python. Data, never code.

The steps are named as ONNX's operators where they do the same; images are NHWC, as TensorFlow has them. Stored as JSON
beside an .npz of the constants, which is read without unpickling.
"""

import json
import os
from dataclasses import field
from typing import Any, Callable, Dict, List, Optional, Tuple

from runyard.protocol.record import record
from runyard.protocol.scoring import CONSTANTS_FILE, PROGRAM_FILE, PROGRAM_FORMAT, ModelFacts
from runyard.protocol.wire import from_wire, to_wire
from runyard.scoring.arrays import zeros
from runyard.scoring.model import Arrays
from runyard.scoring.operators import OPERATORS


@record
class Step:
    """One operation."""

    operator: str
    #: Names of tensors or constants.
    inputs: Tuple[str, ...]
    output: str
    #: Numbers, texts and lists, as JSON has them.
    attributes: Dict[str, Any] = field(default_factory=dict)


@record
class Program:
    """What a compiler has made of a model; its facts are the model's own."""

    facts: ModelFacts
    steps: Tuple[Step, ...]
    #: signature -> name of its output -> the tensor.
    results: Dict[str, Dict[str, str]]
    format: int = PROGRAM_FORMAT


def save_program(folder: str, program: Program, constants: Arrays) -> None:
    """Write both files into the folder, the program last."""
    import numpy

    with open(os.path.join(folder, CONSTANTS_FILE), "wb") as file:
        numpy.savez(file, **constants)
    with open(os.path.join(folder, PROGRAM_FILE), "w", encoding="utf-8") as text:
        json.dump(to_wire(program), text)


def load_program(folder: str) -> "CompiledModel":
    """The compiled model in that folder; ValueError where it is of another format."""
    return read_program(os.path.join(folder, PROGRAM_FILE), os.path.join(folder, CONSTANTS_FILE))


def read_program(program_path: str, constants_path: str) -> "CompiledModel":
    """As ``load_program``, of the two files that it is made of."""
    import numpy

    with open(program_path, encoding="utf-8") as text:
        program: Program = from_wire(Program, json.load(text))
    if program.format != PROGRAM_FORMAT:
        raise ValueError(f"The compiled model has format {program.format}, and not {PROGRAM_FORMAT}: deploy it anew.")
    with numpy.load(constants_path, allow_pickle=False) as stored:
        constants = {name: stored[name] for name in stored.files}
    return CompiledModel(program, constants)


class CompiledModel:
    """A Scorer that needs numpy only."""

    def __init__(self, program: Program, constants: Arrays) -> None:
        self._facts = program.facts
        self._runs = {name: _run_of(program, constants, outputs) for name, outputs in program.results.items()}

    def facts(self) -> ModelFacts:
        """The facts of the model that was compiled."""
        return self._facts

    def predict(self, signature: str, inputs: Arrays) -> Arrays:
        """Carry out the steps of that signature."""
        return self._runs[signature](inputs)

    def sample(self, signature: str) -> Any:
        """Zeros."""
        return zeros(self._facts.signatures[signature])


#: From inputs to outputs.
_Run = Callable[[Arrays], Arrays]


def _run_of(program: Program, constants: Arrays, outputs: Dict[str, str]) -> _Run:
    """The steps that these outputs need, in order; where each takes the one before it, without names between them."""
    needed = set(outputs.values())
    kept: List[Step] = []
    for step in reversed(program.steps):
        if step.output in needed:
            needed.update(step.inputs)
            kept.append(step)
    kept.reverse()
    return _chain(kept, constants, outputs) or _graph(kept, constants, outputs)


def _chain(steps: List[Step], constants: Arrays, outputs: Dict[str, str]) -> Optional[_Run]:
    """None where some step takes more than what the one before it gives, and constants."""
    if not steps or len(outputs) != 1 or steps[0].inputs[0] in constants:
        return None
    first = before = steps[0].inputs[0]
    functions = []
    for step in steps:
        if step.inputs[0] != before or any(name not in constants for name in step.inputs[1:]):
            return None
        functions.append(_bound(_function(step), [constants[name] for name in step.inputs[1:]]))
        before = step.output
    ((result, tensor),) = outputs.items()
    if tensor != before:
        return None

    def run(inputs: Arrays) -> Arrays:
        value = inputs[first]
        for function in functions:
            value = function(value)
        return {result: value}

    return run


def _bound(function: Callable[..., Any], rest: List[Any]) -> Callable[[Any], Any]:
    if not rest:
        return function
    if len(rest) == 1:
        (one,) = rest
        return lambda x: function(x, one)
    return lambda x: function(x, *rest)


def _graph(steps: List[Step], constants: Arrays, outputs: Dict[str, str]) -> _Run:
    made = [(_function(step), step.inputs, step.output) for step in steps]
    used = {name for step in steps for name in step.inputs} | set(outputs.values())
    slots: Dict[str, Any] = {name: value for name, value in constants.items() if name in used}

    def run(inputs: Arrays) -> Arrays:
        values = dict(slots)
        values.update(inputs)
        for function, names, output in made:
            values[output] = function(*[values[name] for name in names])
        return {name: values[tensor] for name, tensor in outputs.items()}

    return run


def _function(step: Step) -> Callable[..., Any]:
    return OPERATORS[step.operator](**step.attributes)
