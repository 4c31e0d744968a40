"""The shape of the code: sizes, docstrings, names, and the calls and imports that no room may make."""

import ast
import sys
import threading
from collections.abc import Iterator

from tests.shape.source_tree import SourceFile, library_files, source_files

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60

#: Names that say nothing; inside azureml/ the names are v1's.
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "core", "manager", "managers", "misc"}

#: Calls that run a shell or code out of data, by their dotted name.
FORBIDDEN_CALLS = {"os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "eval", "exec"}
FORBIDDEN_METHODS = {"extractall"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}

#: Rooms whose job is to speak to a person.
SPEAKING_ROOMS = {"cli", "sdk"}

#: What may be in a model's own environment.
FRAMEWORKS = {
    "azureml", "inference_schema", "joblib", "keras", "lightgbm", "mlflow", "numpy", "onnxruntime", "pandas", "sklearn",
    "tensorflow", "torch", "xgboost",
}  # fmt: skip
#: Runs in a sandbox, never in a server.
UNPICKLES = "src/runyard/scoring/sklearn_model.py"
#: The third-party libraries that a room may import, wherever in a file the import stands.
ALLOWED_THIRD_PARTY = {
    "files": {"pathspec"},
    "environments": {"packaging", "uv", "yaml"},
    "sdk": {"dask", "pandas", "pathspec", "pyarrow", "rich", "yaml"},
    "cli": {"rich", "typer", "plotext", "yaml"},
    "compute": {"ray"},
    "db": {"sqlalchemy"},
    "runner": {"mfusepy"},
    "storage": {"azure", "botocore", "cryptography", "fsspec", "google"},
    "control": {"sqlalchemy"},
    "scoring": FRAMEWORKS,
    "serving": {"httptools", "numpy", "orjson", "simdjson", "uvloop"},
    "server": {"starlette", "uvicorn", "sqlalchemy"},
}


def test_no_file_is_longer_than_five_hundred_lines() -> None:
    offenders = []
    for file in source_files():
        lines = file.text.count("\n")
        if lines > MAX_FILE_LINES:
            offenders.append(f"{file.name}:{MAX_FILE_LINES + 1}: {lines} lines")
    assert not offenders, report(offenders)


def test_no_function_body_is_longer_than_sixty_lines() -> None:
    offenders = []
    for file in source_files():
        for node in file.nodes:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and body_lines(node) > MAX_FUNCTION_LINES:
                offenders.append(file.at(node, f"{node.name} has {body_lines(node)} lines"))
    assert not offenders, report(offenders)


def test_every_module_says_what_it_is_for() -> None:
    offenders = [f"{file.name}:1: no docstring" for file in source_files() if not ast.get_docstring(file.tree)]
    assert not offenders, report(offenders)


def test_no_module_has_a_name_that_says_nothing() -> None:
    offenders = []
    for file in library_files():
        inside = file.name.removeprefix("src/runyard/").removesuffix(".py").split("/")
        if file.room != "azureml" and FORBIDDEN_NAMES & set(inside):
            offenders.append(f"{file.name}:1: name it after its noun")
    assert not offenders, report(offenders)


def test_nothing_runs_a_shell_or_code_out_of_data() -> None:
    offenders = []
    for file in source_files():
        for node in file.nodes:
            if isinstance(node, ast.Call):
                offenders.extend(file.at(node, what) for what in forbidden_call(node))
    assert not offenders, report(offenders)


def test_no_thread_takes_a_name_that_python_s_own_has() -> None:
    own = {name for name in vars(threading.Thread) if name != "run" and not name.startswith("__")}
    taken = [
        f"{file.path}: {method.name}"
        for file in library_files()
        for made in ast.walk(file.tree)
        if isinstance(made, ast.ClassDef) and "threading.Thread" in map(ast.unparse, made.bases)
        for method in made.body
        if isinstance(method, ast.FunctionDef) and method.name in own
    ]
    assert taken == []


def test_only_the_process_that_holds_a_model_unpickles() -> None:
    offenders = []
    for file in source_files():
        if file.name == UNPICKLES:
            continue
        offenders.extend(
            file.at(node, f"imports {module}") for node, module in imports(file) if top(module) in FORBIDDEN_MODULES
        )
    assert not offenders, report(offenders)


def test_only_programs_and_the_rooms_that_speak_to_people_print() -> None:
    offenders = []
    for file in library_files():
        if file.room in SPEAKING_ROOMS or file.path.name == "__main__.py":
            continue
        for node in file.nodes:
            if isinstance(node, ast.Call) and dotted_name(node.func) == "print" and not writes_to_a_file(node):
                offenders.append(file.at(node, "print"))
    assert not offenders, report(offenders)


def test_third_party_libraries_are_imported_only_where_the_table_allows_them() -> None:
    offenders = []
    for file in library_files():
        allowed = ALLOWED_THIRD_PARTY.get(file.room or "", set())
        for node, module in imports(file):
            if top(module) not in sys.stdlib_module_names | {"runyard"} | allowed:
                offenders.append(file.at(node, f"imports {top(module)} in {file.room}"))
    assert not offenders, report(offenders)


def report(offenders: list[str]) -> str:
    return "\n".join(["", *offenders])


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the end: v1's long signatures don't count."""
    statements = function.body[1:] if ast.get_docstring(function) else function.body
    if not statements:
        return 0
    return (function.end_lineno or 0) - statements[0].lineno + 1


def forbidden_call(node: ast.Call) -> Iterator[str]:
    name = dotted_name(node.func)
    if name in FORBIDDEN_CALLS:
        yield f"calls {name}"
    if isinstance(node.func, ast.Attribute) and node.func.attr in FORBIDDEN_METHODS:
        yield f"calls {node.func.attr}"
    for keyword in node.keywords:
        if keyword.arg == "shell" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False):
            yield "passes shell="


def writes_to_a_file(print_call: ast.Call) -> bool:
    target = next((keyword.value for keyword in print_call.keywords if keyword.arg == "file"), None)
    return target is not None and not dotted_name(target).startswith("sys.")


def imports(file: SourceFile) -> Iterator[tuple[ast.AST, str]]:
    """Every absolute import of the file as (node, module)."""
    for node in file.nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node, node.module


def dotted_name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted_name(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def top(module: str) -> str:
    return module.partition(".")[0]
