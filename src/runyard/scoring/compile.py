"""Compiles a model in its own environment, and checks the compiled one against it before anybody sees it.

``python -m runyard.scoring.compile <framework> <model path> <folder>`` writes ``report.json`` into the folder, and the
program where it is exact and not slower.
"""

import json
import sys
import time
import traceback
import warnings
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from runyard.protocol.scoring import REPORT_FILE, ROWS, ModelFacts, SignatureFacts, TensorFacts
from runyard.protocol.wire import to_wire
from runyard.scoring.builder import Builder, CannotCompileError
from runyard.scoring.model import Arrays, load_model
from runyard.scoring.program import CompiledModel, Program, save_program
from runyard.scoring.threads import hold_threads

#: Rows that both are asked for, and how far apart they may be: absolute and relative, by the type of the numbers. Sums
#: of some hundred float32 in another order differ in the fourth digit once large inputs go through an exponential.
CHECKED_ROWS = 520
TOLERANCES = {"float64": (1e-9, 1e-6), "float32": (1e-5, 1e-3), "float16": (1e-3, 1e-2)}
#: What a row may hold that is hard to agree on, and how many rows with it both are asked for.
HARD_VALUES, HARD_ROWS = (float("nan"), float("inf"), float("-inf"), 1e39, -1e39, -0.0, 1e-40), 3
#: What a front takes for a refusal, of a compiled model.
REFUSALS = (ValueError, IndexError, TypeError)
#: Time for one kind of timing, seconds.
TIMING_S = 0.2


def main(arguments: Sequence[str]) -> int:
    """Compile, check, write; the exit code is 0 also where the original is to serve."""
    framework, path, folder = arguments
    began = time.monotonic()
    report: Dict[str, Any] = {}
    hold_threads()
    scorer = load_model(framework, path)
    try:
        report["facts"] = to_wire(scorer.facts())
        report.update(_compiled(scorer, folder))
    except CannotCompileError as error:
        report.update(compiled=False, why=f"no exact form is known for {error}")
    except Exception as error:  # noqa: BLE001 - an estimator of a release that is put together another way
        traceback.print_exc()
        report.update(compiled=False, why=f"the compiler failed: {type(error).__name__}: {error}")
    report["took_s"] = round(time.monotonic() - began, 3)
    with open(f"{folder}/{REPORT_FILE}", "w", encoding="utf-8") as file:
        json.dump(report, file)
    return 0


def _compiled(scorer: Any, folder: str) -> Dict[str, Any]:
    kind = type(scorer).__name__
    compilers = _COMPILERS.get(kind)
    if compilers is None:
        raise CannotCompileError(f"models of {scorer.facts().framework}")
    checked: Dict[str, Any] = {}
    for compiler in compilers:
        program, constants = compiler(scorer)
        checked = check(scorer, CompiledModel(program, constants))
        if not checked["why"]:
            save_program(folder, program, constants)
            return {"compiled": True, **checked}
    return {"compiled": False, **checked}


def _sklearn(scorer: Any) -> Tuple[Program, Arrays]:
    from runyard.scoring.walk_sklearn import walk

    facts: ModelFacts = scorer.facts()
    width = facts.signatures[facts.default].inputs[0].shape
    if width is None or width[1] < 0:
        raise CannotCompileError("an unknown number of columns")
    builder = Builder()
    walk(builder, scorer.estimator, list(facts.signatures), "data", width[1])
    return builder.program(facts), builder.constants


def _saved_model(scorer: Any, fuses: bool = True) -> Tuple[Program, Arrays]:
    facts, builder = scorer.facts(), Builder()
    for name in facts.signatures:
        builder.results[name] = _frozen(scorer.tensorflow, builder, scorer, name, scorer.function(name), fuses)
    return builder.program(facts), builder.constants


def _keras(scorer: Any, fuses: bool = True) -> Tuple[Program, Arrays]:
    facts, builder = scorer.facts(), Builder()
    try:
        tensorflow, function = scorer.concrete()
    except ValueError as error:
        raise CannotCompileError(str(error)) from None
    builder.results[facts.default] = _frozen(tensorflow, builder, scorer, facts.default, function, fuses)
    return builder.program(facts), builder.constants


def _frozen(tensorflow: Any, builder: Builder, scorer: Any, name: str, function: Any, fuses: bool) -> Dict[str, str]:
    from runyard.scoring import walk_tensorflow

    signature = scorer.facts().signatures[name]
    graph, placeholders, outputs = walk_tensorflow.freeze(function, [one.name for one in signature.inputs])
    if _refuses_no_row(scorer, name, signature):
        placeholders = {one: builder.add("SomeRows", [tensor]) for one, tensor in placeholders.items()}
    return walk_tensorflow.walk(tensorflow, builder, graph, placeholders, outputs, fuses)


def _refuses_no_row(scorer: Any, name: str, signature: SignatureFacts) -> bool:
    empty = _no_row(signature)
    if empty is None:
        return False
    try:
        scorer.predict(name, empty)
    except Exception:  # noqa: BLE001 - whatever it says, its callers get no answer
        return True
    return False


#: Each in turn, until one is exact: releases of TensorFlow differ in what they do with NaN.
_COMPILERS: Dict[str, Sequence[Callable[[Any], Tuple[Program, Arrays]]]] = {
    "SklearnModel": (_sklearn,),
    "SavedModel": (_saved_model, partial(_saved_model, fuses=False)),
    "KerasModel": (_keras, partial(_keras, fuses=False)),
}


def check(original: Any, compiled: Any) -> Dict[str, Any]:
    """Ask both for the same rows; ``why`` is empty where they agree and the compiled one is not slower."""
    facts: ModelFacts = original.facts()
    worst = 0.0
    for name, signature in facts.signatures.items():
        for inputs in _samples(signature):
            apart, problem = _difference(original.predict(name, inputs), compiled.predict(name, inputs))
            worst = max(worst, apart)
            if problem:
                return {"why": f"{name} differs from the original: {problem}", "difference": worst}
        for what, inputs in _hard_samples(signature):
            problem = _difference_where_hard(original, compiled, name, inputs)
            if problem:
                return {"why": f"{name} differs from the original for {what}: {problem}", "difference": worst}
    speeds = {one: _per_row_s(model, facts) for one, model in (("original", original), ("compiled", compiled))}
    slower = speeds["compiled"] > speeds["original"]
    return {
        "why": "it would be slower than the original" if slower else "",
        "difference": worst,
        "rows": CHECKED_ROWS,
        "speeds_s": speeds,
    }


def _samples(signature: SignatureFacts) -> List[Arrays]:
    """Rows of several kinds: numbers of either sign, small and large, between 0 and 1, whole as of pixels, zeros."""
    import numpy

    random = numpy.random.RandomState(0)
    kinds: List[Callable[..., Any]] = [
        lambda shape: random.standard_normal(shape),
        lambda shape: random.standard_normal(shape) * 30,
        lambda shape: random.uniform(0, 1, shape),
        lambda shape: random.randint(0, 256, shape),
        lambda shape: numpy.zeros(shape),
    ]
    rows = CHECKED_ROWS // len(kinds)
    return [{one.name: kind(_shape(one, rows)).astype(one.dtype) for one in signature.inputs} for kind in kinds]


def _hard_samples(signature: SignatureFacts) -> List[Tuple[str, Arrays]]:
    """Rows with what models stumble over, and what they are: each value alone in a row, and in all of it."""
    import numpy

    random = numpy.random.RandomState(1)
    samples = []
    for value in HARD_VALUES:
        rows = {}
        for one in signature.inputs:
            made = random.standard_normal(_shape(one, HARD_ROWS))
            rows_of_it = made.reshape(len(made) if made.ndim else 1, -1)
            rows_of_it[0] = value
            rows_of_it[1:, random.randint(rows_of_it.shape[1])] = value
            with numpy.errstate(over="ignore", invalid="ignore"):
                rows[one.name] = made.astype(one.dtype)
        samples.append((f"rows with {value:g}", rows))
    first = {one.name: random.standard_normal(_shape(one, 1)).astype(one.dtype) for one in signature.inputs}
    samples.append(("one row", first))
    empty = _no_row(signature)
    if empty is not None:
        samples.append(("no row", empty))
    return samples


def _no_row(signature: SignatureFacts) -> Optional[Arrays]:
    """A request without a row; None where an input takes something else than rows."""
    import numpy

    shapes = {one.name: _shape(one, 0) for one in signature.inputs}
    if not all(one.shape is not None and one.shape[:1] == (-1,) for one in signature.inputs):
        return None
    return {one.name: numpy.zeros(shapes[one.name], one.dtype) for one in signature.inputs}


def _difference_where_hard(original: Any, compiled: Any, name: str, inputs: Arrays) -> str:
    """In words, how answers or refusals differ; '' where they agree."""
    import numpy

    with warnings.catch_warnings(), numpy.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            expected = original.predict(name, inputs)
        except Exception:  # noqa: BLE001 - whatever it says, its callers get no answer
            expected = None
        try:
            found = compiled.predict(name, inputs)
        except REFUSALS:
            return "" if expected is None else "it refuses them"
    if expected is None:
        return "it answers them"
    return _difference(*_rows_with_numbers(expected, found))[1]


def _rows_with_numbers(expected: Arrays, found: Arrays) -> Tuple[Arrays, Arrays]:
    """Rows in which both have NaN are NaN in both: that there is no answer counts, and not what else is in the row."""
    import numpy

    expected, found = ({name: numpy.array(value) for name, value in one.items()} for one in (expected, found))
    for name, value in expected.items():
        other = found.get(name)
        if other is None or value.shape != other.shape or not value.size or value.dtype.kind != "f":
            continue
        of_rows = tuple(range(1, value.ndim))
        lost = numpy.isnan(value).any(axis=of_rows) & numpy.isnan(other).any(axis=of_rows)
        value[lost] = other[lost] = numpy.nan
    return expected, found


def _shape(one: TensorFacts, rows: int) -> List[int]:
    if one.shape is None or one.dtype == "object":
        raise CannotCompileError(f"the input {one.name!r}, whose shape or type is open")
    return [rows if at == 0 and size < 0 else max(size, 1) for at, size in enumerate(one.shape)]


def _difference(expected: Arrays, found: Arrays) -> Tuple[float, str]:
    """How far apart at most, and in words what is wrong."""
    import numpy

    worst = 0.0
    for name, value in expected.items():
        value, other = numpy.asarray(value), numpy.asarray(found.get(name))
        if value.shape != other.shape:
            return worst, f"{name} has the shape {other.shape} and not {value.shape}"
        if value.dtype.kind not in "f":
            wrong = int((value != other).sum())
            if wrong:
                return worst, f"{name} is another one in {wrong} of {value.size} rows"
            continue
        absolute, relative = TOLERANCES.get(value.dtype.name, TOLERANCES["float32"])
        with numpy.errstate(invalid="ignore"):
            apart = numpy.abs(value - other)
        same = (value == other) | (numpy.isnan(value) & numpy.isnan(other))
        apart = numpy.where(numpy.isfinite(apart), apart, numpy.inf)
        worst = max(worst, float(numpy.where(same, 0, apart).max(initial=0)))
        if not (same | (apart <= absolute + relative * numpy.where(numpy.isfinite(value), numpy.abs(value), 0))).all():
            return worst, f"{name} is up to {worst:.3g} apart"
    return worst, ""


def _per_row_s(model: Any, facts: ModelFacts) -> float:
    """Seconds for one row, the best of some."""
    inputs = {
        name: value[:1] if facts.signatures[facts.default].begins_with_rows or facts.kind == ROWS else value
        for name, value in _samples(facts.signatures[facts.default])[2].items()
    }
    model.predict(facts.default, inputs)
    best, until, count = float("inf"), time.monotonic() + TIMING_S, 0
    while time.monotonic() < until or count < 3:
        count += 1
        began = time.perf_counter()
        model.predict(facts.default, inputs)
        best = min(best, time.perf_counter() - began)
    return best


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
