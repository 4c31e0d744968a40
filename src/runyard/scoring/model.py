"""The seam of a model that is loaded, and the table of those who load one."""

import importlib
from typing import TYPE_CHECKING, Any, Dict, Optional

from runyard.protocol.scoring import ModelFacts
from runyard.scoring.streams import keep_printing

if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object

#: NumPy arrays by the names of a signature's inputs or outputs (``SignatureFacts``), of the dtypes and shapes there.
Arrays = Dict[str, Any]

#: Who loads a framework's models: v1's words, and those that came after.
LOADERS = {
    "TensorFlow": "tensorflow_model",
    "TfKeras": "tensorflow_model",
    "Keras": "keras_model",
    "ScikitLearn": "sklearn_model",
    "Onnx": "onnx_model",
    "PyTorch": "torch_model",
    "XGBoost": "xgboost_model",
    "LightGBM": "lightgbm_model",
    "MLflow": "mlflow_model",
}


class Scorer(Protocol):
    """A loaded model. Called by one thread at a time."""

    def facts(self) -> ModelFacts:
        """What it takes and gives; asked several times, and always the same."""

    def predict(self, signature: str, inputs: Arrays) -> Arrays:
        """The outputs by name; whatever it raises is the request's error, told as its type and message with status 400.

        Where every input begins with rows (-1) or nothing is known of its shape, the rows of several requests may come
        as one: then each output begins with as many rows, or they are asked one by one.
        """

    def sample(self, signature: str) -> Optional[Arrays]:
        """Inputs of one row that it should take, for the smoke test; None where nothing is known of them."""


def load_model(framework: str, path: str) -> Scorer:
    """The model at ``path``, a file or folder, by the ``load`` of its module in LOADERS.

    Raises what the framework raises, and ValueError for what it is not.
    """
    name = LOADERS.get(framework)
    if name is None:
        raise ValueError(f"Models of the framework {framework!r} need an entry script; known: {', '.join(LOADERS)}.")
    keep_printing()
    module = importlib.import_module("runyard.scoring." + name)
    scorer: Scorer = module.load(path)
    return scorer
