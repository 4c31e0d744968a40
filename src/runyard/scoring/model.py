"""The seam of a model that is loaded, and the table of those who load one."""

import importlib
from typing import TYPE_CHECKING, Any, Dict, Optional

from runyard.protocol.scoring import ModelFacts
from runyard.scoring.streams import keep_printing

if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object

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
        """What it takes and gives."""

    def predict(self, signature: str, inputs: Arrays) -> Arrays:
        """The outputs by name; whatever it raises is the request's error."""

    def sample(self, signature: str) -> Optional[Arrays]:
        """Inputs of one row that it should take, for the smoke test; None where nothing is known of them."""


def load_model(framework: str, path: str) -> Scorer:
    """The model at ``path``, a file or folder; raises what the framework raises, and ValueError for what it is not."""
    name = LOADERS.get(framework)
    if name is None:
        raise ValueError(f"Models of the framework {framework!r} need an entry script; known: {', '.join(LOADERS)}.")
    keep_printing()
    module = importlib.import_module("runyard.scoring." + name)
    scorer: Scorer = module.load(path)
    return scorer
