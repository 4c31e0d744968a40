"""A notebook as a run's script: what is submitted for it, and, as a program inside the run, what carries it out.

``python -m runyard.sdk.notebook_script train.ipynb --rate 0.1`` runs its cells in order and prints what they print; the
notebook with its outputs is left in ``./outputs``. Needs nbclient and ipykernel in the run's environment.
"""

import os
import re
import sys
import tempfile
from importlib import import_module
from typing import Any, List, Optional, Tuple

from runyard.errors import UserErrorException
from runyard.protocol.environments import EnvironmentSpec

SUFFIX = ".ipynb"

#: Packages that bring nbclient with them, and those that bring a kernel.
_CLIENTS = frozenset(("nbclient", "nbconvert", "papermill", "jupyter", "jupyterlab", "notebook"))
_KERNELS = frozenset(("ipykernel", "jupyter", "jupyterlab", "notebook"))
_LACKS = "add 'nbclient' and 'ipykernel' to its pip packages"


def command_of(script: str, environment: EnvironmentSpec) -> Tuple[str, ...]:
    """The command that runs the notebook; UserErrorException where its environment has nothing to run one with."""
    python = environment.python
    if python.user_managed:
        # What is in there shows in the run.
        interpreter = python.interpreter_path
    else:
        _check_packages(script, python.conda.packages + python.conda.pip)
        interpreter = "python"
    return (interpreter, "-m", "runyard.sdk.notebook_script", script)


def _check_packages(script: str, lines: Tuple[str, ...]) -> None:
    if any(line.lstrip().startswith("-") for line in lines):
        # A list in another file: what it holds shows in the run.
        return
    names = {re.split(r"[^a-z0-9-]", line.rpartition("::")[2].strip().lower().replace("_", "-"))[0] for line in lines}
    if not (names & _CLIENTS and names & _KERNELS):
        raise UserErrorException(
            f"The script {script!r} is a notebook, and its environment has nothing that runs one: {_LACKS}."
        )


def main(words: List[str]) -> Optional[str]:
    """Run the notebook ``words[0]`` with the other words as its arguments; returns what went wrong."""
    try:
        nbclient: Any = import_module("nbclient")
        nbformat: Any = import_module("nbformat")
    except ImportError as error:
        return f"A notebook needs {error.name!r}, which the run's environment lacks: {_LACKS}."
    with tempfile.TemporaryDirectory(prefix="runyard-notebook-") as scratch:
        # The account's own folders may not be there, or name a kernel of another Python.
        os.environ.update(JUPYTER_RUNTIME_DIR=scratch, JUPYTER_DATA_DIR=scratch, IPYTHONDIR=scratch)
        notebook = nbformat.read(words[0], as_version=4)
        first = nbformat.v4.new_code_cell(f"import sys\nsys.argv = {words!r}")
        notebook.cells.insert(0, first)
        try:
            _make_client(nbclient, notebook).execute()
        except nbclient.exceptions.CellExecutionError:
            # Its traceback is printed already.
            return f"A cell of {words[0]!r} failed."
        except Exception as error:
            if type(error).__name__ == "NoSuchKernel":
                return f"A notebook needs 'ipykernel', which the run's environment lacks: {_LACKS}."
            raise
        finally:
            notebook.cells.remove(first)
            nbformat.write(notebook, _place(words[0]))
    return None


def _make_client(nbclient: Any, notebook: Any) -> Any:
    class Client(nbclient.NotebookClient):  # type: ignore[misc]
        """Prints what the cells print while they run."""

        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            _show(msg["msg_type"], msg["content"])
            return super().process_message(msg, cell, cell_index)

    return Client(notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": os.getcwd()}})


def _show(kind: str, content: Any) -> None:
    if kind == "stream":
        stream, text = (sys.stderr if content["name"] == "stderr" else sys.stdout), content["text"]
    elif kind == "error":
        stream, text = sys.stderr, "\n".join(content["traceback"]) + "\n"
    elif kind in ("execute_result", "display_data"):
        stream, text = sys.stdout, content["data"].get("text/plain", "") + "\n"
    else:
        return
    stream.write(text)
    stream.flush()


def _place(path: str) -> str:
    """Where the notebook goes once it has run; each process of a distributed run has a file of its own."""
    os.makedirs("outputs", exist_ok=True)
    name, _ = os.path.splitext(os.path.basename(path))
    index = os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("RANK") or "0"
    return os.path.join("outputs", name + ("" if index == "0" else "-" + index) + SUFFIX)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
