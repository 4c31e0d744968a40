"""Models of ONNX, by ONNX Runtime."""

from typing import Any, Optional

from runyard.protocol.scoring import OBJECT, TENSORS, ModelFacts, SignatureFacts, TensorFacts
from runyard.scoring.arrays import check_ranks, zeros
from runyard.scoring.model import Arrays
from runyard.scoring.places import find_file
from runyard.scoring.threads import threads

#: numpy's names of ONNX Runtime's types.
DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(int8)": "int8",
    "tensor(int16)": "int16", "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64", "tensor(bool)": "bool",
}  # fmt: skip
#: The one thing that can be asked of an ONNX model.
SIGNATURE = "serving_default"


def load(path: str) -> "OnnxModel":
    """The model in the one .onnx file."""
    return OnnxModel(find_file(path, (".onnx",), "An ONNX model"))


class OnnxModel:
    """A session of ONNX Runtime's, on as many cores as it may have."""

    def __init__(self, file: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads(), 1
        self._session: Any = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._version: str = onnxruntime.__version__
        self._signature = SignatureFacts(
            tuple(_tensor(one) for one in self._session.get_inputs()),
            tuple(_tensor(one) for one in self._session.get_outputs()),
        )

    def facts(self) -> ModelFacts:
        """Inputs and outputs under their own names."""
        return ModelFacts(TENSORS, "Onnx", self._version, {SIGNATURE: self._signature}, SIGNATURE)

    def predict(self, signature: str, inputs: Arrays) -> Arrays:
        """Run the graph."""
        check_ranks(self._signature, inputs)
        for one in self._signature.inputs:
            if one.dtype == OBJECT:
                _check_texts(one.name, inputs[one.name])
        names = [one.name for one in self._session.get_outputs()]
        # ONNX-ML's ZipMap gives a list of dicts, which becomes an array of objects.
        return {name: _array(value) for name, value in zip(names, self._session.run(None, inputs))}

    def sample(self, signature: str) -> Optional[Arrays]:
        """Zeros of the declared shape, one where any length will do."""
        return zeros(self._signature)


def _tensor(one: Any) -> TensorFacts:
    shape = tuple(size if isinstance(size, int) else -1 for size in one.shape)
    return TensorFacts(one.name, DTYPES.get(one.type, OBJECT), shape)


def _check_texts(name: str, values: Any) -> None:
    """ONNX Runtime would take the words for whatever else is there: "None"."""
    for one in values.reshape(-1).tolist():
        if not isinstance(one, str):
            raise ValueError(f"The input {name!r} takes texts in UTF-8, and here is {one!r:.60}.")


def _array(value: Any) -> Any:
    import numpy

    if isinstance(value, list):
        made = numpy.empty(len(value), dtype=object)
        made[:] = value
        return made
    return value
