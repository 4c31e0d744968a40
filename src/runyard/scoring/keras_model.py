"""Models of Keras in a file: .keras, .h5; by Keras 3 or the Keras inside TensorFlow."""

import os
from typing import Any, Optional, Tuple

from runyard.protocol.scoring import OBJECT, TENSORS, ModelFacts, SignatureFacts, TensorFacts
from runyard.scoring.arrays import check_ranks, zeros
from runyard.scoring.model import Arrays
from runyard.scoring.places import find_file

ENDINGS = (".keras", ".h5", ".hdf5")
SIGNATURE = "serving_default"


def find(path: str) -> bool:
    """Is there a Keras model at or below ``path``?"""
    if os.path.isfile(path):
        return path.endswith(ENDINGS)
    return any(name.endswith(ENDINGS) for _, _, names in os.walk(path) for name in names)


def load(path: str) -> "KerasModel":
    """The model in the one file."""
    file = find_file(path, ENDINGS, "A Keras model")
    keras = _keras()
    return KerasModel(keras, keras.models.load_model(file, compile=False))


class KerasModel:
    """A network with named inputs and outputs."""

    def __init__(self, keras: Any, model: Any) -> None:
        self.model = model
        self._version = str(getattr(keras, "__version__", ""))
        inputs = tuple(_tensor(one, f"input_{number}") for number, one in enumerate(model.inputs))
        named = list(getattr(model, "output_names", ()))
        outputs = tuple(
            _tensor(one, f"output_{number}", named[number] if number < len(named) else "")
            for number, one in enumerate(model.outputs)
        )
        self._signature = SignatureFacts(inputs, outputs)

    def facts(self) -> ModelFacts:
        """One signature."""
        return ModelFacts(TENSORS, "TfKeras", self._version, {SIGNATURE: self._signature}, SIGNATURE)

    def predict(self, signature: str, inputs: Arrays) -> Arrays:
        """A forward pass."""
        check_ranks(self._signature, inputs)
        given = [
            _texts(one.name, inputs[one.name]) if one.dtype == OBJECT else inputs[one.name]
            for one in self._signature.inputs
        ]
        # predict_on_batch keeps the graph that it made for that shape, in every release.
        result = self.model.predict_on_batch(given if len(given) > 1 else given[0])
        results = result if isinstance(result, (list, tuple)) else [result]
        if isinstance(result, dict):
            results = [result[key] for key in result]
        return {one.name: value for one, value in zip(self._signature.outputs, results)}

    def concrete(self) -> Any:
        """(TensorFlow, the forward pass as a function of its own), for a compiler; ValueError without TensorFlow."""
        try:
            import tensorflow
        except ImportError:
            raise ValueError("no TensorFlow beside this Keras") from None
        if any(one.dtype == OBJECT for one in self._signature.inputs):
            raise ValueError("a Keras model that reads texts")
        specs = [
            tensorflow.TensorSpec([None if size < 0 else size for size in one.shape or ()], one.dtype, name=one.name)
            for one in self._signature.inputs
        ]

        def forward(*tensors: Any) -> Any:
            result = self.model(tensors[0] if len(tensors) == 1 else list(tensors), training=False)
            results = result if isinstance(result, (list, tuple)) else [result]
            return {one.name: value for one, value in zip(self._signature.outputs, results)}

        return tensorflow, tensorflow.function(forward).get_concrete_function(*specs)

    def sample(self, signature: str) -> Optional[Arrays]:
        """Zeros of the declared shapes."""
        return zeros(self._signature)


def _keras() -> Any:
    """The Keras that this environment has: TensorFlow's own where it is there, else Keras by itself."""
    try:
        import tensorflow
    except ImportError:
        import keras

        return keras
    from runyard.scoring.tensorflow_model import quiet

    quiet(tensorflow)
    return tensorflow.keras


def _tensor(one: Any, default: str, name: str = "") -> TensorFacts:
    shape: Tuple[Any, ...] = tuple(one.shape)
    sizes = tuple(-1 if _size(size) is None else int(_size(size)) for size in shape)
    dtype = getattr(one.dtype, "name", one.dtype)
    kind = OBJECT if str(dtype) == "string" else str(dtype)
    return TensorFacts(name or str(one.name).partition(":")[0] or default, kind, sizes)


def _texts(name: str, values: Any) -> Any:
    import tensorflow

    from runyard.scoring.tensorflow_model import texts

    return texts(tensorflow, name, values)


def _size(size: Any) -> Any:
    """TensorFlow 1 has dimensions that are objects."""
    return getattr(size, "value", size)
