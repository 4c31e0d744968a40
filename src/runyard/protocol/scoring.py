"""What a loaded model tells of itself: which tensors it takes and gives, by signature.

And what a model needs before it is loaded: which distributions install the frameworks that need no code.
"""

from dataclasses import field
from typing import Dict, Optional, Tuple

from runyard.protocol.record import record

#: TENSORS: tensors by name. ROWS: one input of rows, and swagger.json shows v1's "data" and "method". SCRIPT: the
#: request's own body. Columns with names may come with either of the first two (ModelFacts.columns).
TENSORS, ROWS, SCRIPT = "tensors", "rows", "script"
#: Files of a compiled model: its steps, its numbers, and what its compiler says of it.
PROGRAM_FILE, CONSTANTS_FILE, REPORT_FILE = "program.json", "constants.npz", "report.json"
#: Part of the key under which a compiled model is kept: where it changes, models are compiled anew when deployed.
PROGRAM_FORMAT = 1
#: A dtype besides numpy's names: texts, or values of several types; they travel as JSON.
OBJECT = "object"
#: How many threads a process with a model computes with; OpenMP's libraries read it too.
THREADS_VARIABLE = "OMP_NUM_THREADS"


@record
class TensorFacts:
    """One input or output."""

    name: str
    #: A numpy name, as "float32", or OBJECT.
    dtype: str
    #: -1 where any length will do; None: nothing is known.
    shape: Optional[Tuple[int, ...]] = None


@record
class SignatureFacts:
    """One thing that can be asked of the model."""

    inputs: Tuple[TensorFacts, ...] = ()
    outputs: Tuple[TensorFacts, ...] = ()
    #: predict, classify or regress, as TensorFlow Serving has them.
    method: str = "predict"

    @property
    def begins_with_rows(self) -> bool:
        """Does each input and output begin with rows, of any number?"""
        known = [one.shape for one in (*self.inputs, *self.outputs)]
        return bool(known) and all(shape is not None and shape[:1] == (-1,) for shape in known)


@record
class ModelFacts:
    """A loaded model."""

    #: TENSORS, ROWS or SCRIPT.
    kind: str
    #: A key of DISTRIBUTIONS, or "Custom" for a script.
    framework: str
    #: Of the framework that loaded it.
    framework_version: str = ""
    signatures: Dict[str, SignatureFacts] = field(default_factory=dict)
    #: Which signature is meant where a request names none.
    default: str = ""
    #: Names of the columns, where the model was trained on named ones.
    columns: Tuple[str, ...] = ()
    #: Of those, the ones that a row may lack.
    optional: Tuple[str, ...] = ()
    #: A request's body that the smoke test has sent with success, as JSON; '': none was known.
    sample: str = ""
    #: What the script says of its input and output, as JSON schema; '': nothing.
    schema: str = ""


#: By which distributions a framework that needs no code may be in an environment; the first one is what we install. Its
#: loader is in scoring/model.py.
DISTRIBUTIONS: Dict[str, Tuple[str, ...]] = {
    "TensorFlow": ("tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tf-nightly"),
    "TfKeras": ("tensorflow", "tensorflow-cpu", "tensorflow-gpu", "keras"),
    "Keras": ("keras", "tensorflow", "tensorflow-cpu"),
    "ScikitLearn": ("scikit-learn",),
    "Onnx": ("onnxruntime", "onnxruntime-gpu"),
    "PyTorch": ("torch",),
    "XGBoost": ("xgboost", "xgboost-cpu"),
    "LightGBM": ("lightgbm",),
    "MLflow": ("mlflow", "mlflow-skinny"),
}
#: What goes in beside it: pandas for columns by name, scikit-learn for pickled estimators of boosters, TensorFlow to
#: run Keras.
BESIDE = {
    "ScikitLearn": ("pandas",),
    "Keras": ("tensorflow",),
    "XGBoost": ("scikit-learn",),
    "LightGBM": ("scikit-learn",),
}


def requirements_of(framework: str, version: Optional[str]) -> Tuple[str, ...]:
    """What pip installs for a model of that framework, the framework itself first."""
    name = DISTRIBUTIONS[framework][0]
    return (name if version is None else f"{name}=={full_version(version)}", *BESIDE.get(framework, ()))


def full_version(version: str) -> str:
    """v1's users write 2.0 where they mean a release of it: the first one."""
    return version + ".0" if version.count(".") == 1 else version
