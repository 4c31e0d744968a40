"""A model that is loaded, and how it answers a front: one request after the other, over whatever leads there."""

import re
import sys
import time
import traceback
from typing import Any, Dict, Optional

from runyard.protocol.scoring import SCRIPT, ModelFacts
from runyard.protocol.wire import to_wire
from runyard.scoring import arrays, frames
from runyard.scoring.threads import hold_threads

#: The last lines of a traceback that say why a model could not be loaded.
TRACEBACK_LINES_MAX = 60
#: Of a model's own error, so much goes to whoever asked, characters.
ERROR_MAX = 1500
#: Lines and words of TensorFlow's and Keras' errors that tell where in somebody's code, and which node of a graph.
_PLACE = re.compile(r'\s*(?:Graph execution error:|Detected at node |File "|<stack traces unavailable>)')
_NODE = re.compile(r"\[\[\{\{[^\]]*\]\]|\[Op:\w+\]")


class Loaded:
    """A model in memory, which has answered once where anybody can know what to ask it."""

    def __init__(self, plan: Dict[str, Any]) -> None:
        began = time.monotonic()
        hold_threads()
        self._scorer = _load(plan)
        facts = self._scorer.facts()
        sample = _smoke(self._scorer, facts)
        took = time.monotonic() - began
        self._said = {"ready": to_wire(facts), "took_s": round(took, 3), "sample_s": sample}

    def serve(self, line: Any) -> bool:
        """Answer the front at the other end; True where it wants the end, False where it is gone."""
        frames.send(line, self._said)
        while True:
            message = frames.receive(line)
            if message is None:
                return False
            if message[0].get("call") == "leave":
                return True
            _answer(line, self._scorer, *message)
            sys.stdout.flush()


def _load(plan: Dict[str, Any]) -> Any:
    if plan.get("compiled"):
        from runyard.scoring.program import load_program

        return load_program(plan["compiled"])
    if plan.get("entry_script"):
        from runyard.scoring.score_script import ScriptModel

        return ScriptModel(plan["entry_script"])
    from runyard.scoring.model import load_model

    return load_model(plan["framework"], plan["model"])


def _smoke(scorer: Any, facts: ModelFacts) -> Optional[float]:
    """One request before anybody's; seconds that it took, None where nobody can know what to send."""
    if facts.kind == SCRIPT:
        if not facts.sample:
            return None
        began = time.monotonic()
        status, _, body = scorer.answer(
            {"method": "POST", "path": "/score", "query": "", "headers": {}}, facts.sample.encode()
        )
        if status != 200:
            raise RuntimeError(f"run() failed on its own sample: {body.decode('utf-8', 'replace')[:2000]}")
        return time.monotonic() - began
    inputs = scorer.sample(facts.default)
    if inputs is None:
        return None
    scorer.predict(facts.default, inputs)
    began = time.monotonic()
    scorer.predict(facts.default, inputs)
    return time.monotonic() - began


def tell_failure(line: Any, error: BaseException) -> None:
    """Say why the model cannot be loaded: in the log, and to the front."""
    traceback.print_exc()
    sys.stderr.flush()
    lines = traceback.format_exc().splitlines()
    if len(lines) > TRACEBACK_LINES_MAX:
        lines = [*lines[:2], "  ...", *lines[-TRACEBACK_LINES_MAX:]]
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames.send(line, {"failed": said, "traceback": "\n".join(lines)})


def said_of(error: Exception) -> str:
    """What it says, in one line: of all of its own, since what was wrong often comes after what was done.

    Without the places in code that frameworks tell: whoever asks has not written it.
    """
    whole = " ".join(str(error).split())
    lines = [one for one in str(error).splitlines() if not _PLACE.match(one)]
    return " ".join(_NODE.sub("", " ".join(lines)).split()) or whole


def _answer(line: Any, scorer: Any, header: Dict[str, Any], body: Any) -> None:
    number = header["id"]
    if header["call"] == "run":
        status, headers, made = scorer.answer(header, bytes(body))
        frames.send(line, {"id": number, "status": status, "headers": headers}, [made])
        return
    try:
        outputs = scorer.predict(header["signature"], arrays.unpack(header["tensors"], body))
        described, buffers = arrays.pack(outputs)
    except Exception as error:  # noqa: BLE001 - the model's own
        traceback.print_exc()
        sys.stderr.flush()
        frames.send(line, {"id": number, "error": f"{type(error).__name__}: {said_of(error)}"[:ERROR_MAX]})
        return
    frames.send(line, {"id": number, "tensors": described}, buffers)
