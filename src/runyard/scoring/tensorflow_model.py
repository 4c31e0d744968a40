"""Models of TensorFlow: a SavedModel of release 1 or 2, or one of Keras in a file."""

import base64
import os
import sys
from typing import Any, Dict, Optional, Tuple

from runyard.protocol.scoring import OBJECT, TENSORS, ModelFacts, SignatureFacts, TensorFacts
from runyard.scoring import keras_model
from runyard.scoring.arrays import check_ranks, zeros
from runyard.scoring.model import Arrays, Scorer
from runyard.scoring.places import find_folder
from runyard.scoring.threads import threads

#: The signature that is meant where a request names none.
DEFAULT = "serving_default"
#: A type of TensorFlow's that numpy does not know: it goes in and out as float32.
NARROW = "bfloat16"
_METHODS = {
    "tensorflow/serving/predict": "predict",
    "tensorflow/serving/classify": "classify",
    "tensorflow/serving/regress": "regress",
}


def load(path: str) -> Scorer:
    """The SavedModel or Keras model at or below ``path``."""
    folder = find_folder(path, "saved_model.pb") if os.path.isdir(path) else ""
    if not folder:
        if keras_model.find(path):
            return keras_model.load(path)
        raise ValueError(
            "A TensorFlow model without code is a SavedModel folder (with saved_model.pb) or a .keras or .h5 file; "
            f"here are: {', '.join(sorted(os.listdir(path))[:10]) if os.path.isdir(path) else os.path.basename(path)}. "
            "Save it with tf.saved_model.save, or give an entry script."
        )
    import tensorflow

    quiet(tensorflow)
    made_by, present = written_by(folder), tensorflow.__version__
    if made_by and made_by != present:
        sys.stdout.write(f"TensorFlow {present} loads a SavedModel that TensorFlow {made_by} has written.\n")
        sys.stdout.flush()
    try:
        return SessionModel(tensorflow, folder) if present.startswith("1.") else SavedModel(tensorflow, folder)
    except Exception as error:
        if made_by in ("", present):
            raise
        raise ValueError(
            f"{error} -- TensorFlow {present} could not load this SavedModel, which TensorFlow {made_by} has written. "
            "Let the version that wrote it serve it: register it by run.register_model, from the run that wrote it, or "
            f"by Model.register with model_framework_version={made_by!r}."
        ) from error


def written_by(folder: str) -> str:
    """The version of TensorFlow that has written a SavedModel; '' where the file does not say."""
    try:
        metas = _stored(folder).meta_graphs
    except Exception:  # noqa: BLE001 - whatever is wrong with the file, loading it says so
        return ""
    return next((str(one.meta_info_def.tensorflow_version) for one in metas), "")


def quiet(tensorflow: Any) -> None:
    """As many cores as it may have."""
    try:
        tensorflow.config.threading.set_intra_op_parallelism_threads(threads())
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    except (AttributeError, RuntimeError):
        pass


class SavedModel:
    """A SavedModel by TensorFlow 2."""

    def __init__(self, tensorflow: Any, folder: str) -> None:
        self.tensorflow = tensorflow
        # The functions hold the variables weakly: without the model they would be gone.
        self._loaded = tensorflow.saved_model.load(folder)
        self._functions: Dict[str, Any] = dict(self._loaded.signatures)
        if not self._functions:
            raise ValueError("This SavedModel has no signature; save it with tf.saved_model.save(..., signatures=...).")
        # As the file has them: of what an estimator has exported, the functions do not know their own inputs.
        defined = {name: one for name, one in _defined(folder).items() if name in self._functions}
        self._signatures = _signatures(tensorflow, defined)
        #: Inputs of types that numpy does not know.
        self._narrow = {
            (name, key): info.dtype
            for name, one in defined.items()
            for key, info in one.inputs.items()
            if tensorflow.as_dtype(info.dtype).name == NARROW
        }

    def facts(self) -> ModelFacts:
        """Its signatures."""
        default = DEFAULT if DEFAULT in self._functions else sorted(self._functions)[0]
        version = self.tensorflow.__version__
        return ModelFacts(TENSORS, "TensorFlow", version, dict(self._signatures), default)

    def predict(self, signature: str, inputs: Arrays) -> Arrays:
        """Call that signature."""
        check_ranks(self._signatures[signature], inputs)
        constant = self.tensorflow.constant
        given = {}
        for one in self._signatures[signature].inputs:
            if one.dtype == OBJECT:
                given[one.name] = texts(self.tensorflow, one.name, inputs[one.name])
            else:
                given[one.name] = constant(inputs[one.name], dtype=self._narrow.get((signature, one.name), one.dtype))
        return {name: one.numpy() for name, one in self._functions[signature](**given).items()}

    def sample(self, signature: str) -> Optional[Arrays]:
        """Zeros of the declared shapes."""
        return zeros(self._signatures[signature])

    def function(self, signature: str) -> Any:
        """That signature's own function, for a compiler."""
        return self._functions[signature]


class SessionModel:
    """A SavedModel by TensorFlow 1."""

    def __init__(self, tensorflow: Any, folder: str) -> None:
        self._tensorflow = tensorflow
        settings = tensorflow.ConfigProto(intra_op_parallelism_threads=threads(), inter_op_parallelism_threads=1)
        self._session = tensorflow.Session(graph=tensorflow.Graph(), config=settings)
        with self._session.graph.as_default():
            loaded = tensorflow.saved_model.loader.load(self._session, ["serve"], folder)
        self._defined = dict(loaded.signature_def)
        self._signatures = _signatures(tensorflow, self._defined)

    def facts(self) -> ModelFacts:
        """Its signatures."""
        default = DEFAULT if DEFAULT in self._defined else sorted(self._defined)[0]
        return ModelFacts(TENSORS, "TensorFlow", self._tensorflow.__version__, dict(self._signatures), default)

    def predict(self, signature: str, inputs: Arrays) -> Arrays:
        """Run that signature's outputs."""
        check_ranks(self._signatures[signature], inputs)
        defined = self._defined[signature]
        given = {
            key: _packed(self._tensorflow, key, value) if value.dtype == object else value
            for key, value in inputs.items()
        }
        fed = {one.name: given[key] for key, one in defined.inputs.items()}
        result: Arrays = self._session.run({key: one.name for key, one in defined.outputs.items()}, fed)
        return result

    def sample(self, signature: str) -> Optional[Arrays]:
        """Zeros of the declared shapes."""
        return zeros(self._signatures[signature])


def texts(tensorflow: Any, name: str, values: Any) -> Any:
    """Texts and bytes as a tensor."""
    packed = _packed(tensorflow, name, values)
    return tensorflow.constant(packed.tolist(), dtype=tensorflow.string, shape=packed.shape)


def _packed(tensorflow: Any, name: str, values: Any) -> Any:
    """Texts and bytes; features by name as a tf.train.Example, which is what signatures to classify or regress take."""
    import numpy

    made = numpy.empty(values.shape, dtype=object)
    flat = [_bytes_of(one) if _is_packed(one) else one for one in values.reshape(-1).tolist()]
    flat = [_example(tensorflow, one) if isinstance(one, dict) else one for one in flat]
    for one in flat:
        if not isinstance(one, (str, bytes)):
            raise ValueError(f"The input {name!r} takes texts, and here is {one!r:.60}.")
    made.reshape(-1)[:] = flat
    return made


def _example(tensorflow: Any, row: Dict[str, Any]) -> bytes:
    features = {}
    for name, value in row.items():
        values = [_bytes_of(one) for one in (value if isinstance(value, list) else [value])]
        if not values:
            features[name] = tensorflow.train.Feature()
            continue
        if all(isinstance(one, (str, bytes)) for one in values):
            texts = [one.encode("utf-8") if isinstance(one, str) else one for one in values]
            kind = {"bytes_list": tensorflow.train.BytesList(value=texts)}
        elif all(isinstance(one, int) for one in values):
            kind = {"int64_list": tensorflow.train.Int64List(value=values)}
        elif not all(isinstance(one, (int, float)) for one in values):
            raise ValueError(f"The feature {name!r} is a number, a text or a list of such, and here is {value!r:.60}.")
        else:
            kind = {"float_list": tensorflow.train.FloatList(value=values)}
        features[name] = tensorflow.train.Feature(**kind)
    made = tensorflow.train.Example(features=tensorflow.train.Features(feature=features))
    serialized: bytes = made.SerializeToString()
    return serialized


def _is_packed(value: Any) -> bool:
    """Is that bytes as JSON has them?"""
    return isinstance(value, dict) and set(value) == {"b64"}


def _bytes_of(value: Any) -> Any:
    return base64.b64decode(value["b64"]) if _is_packed(value) else value


def _signatures(tensorflow: Any, defined: Dict[str, Any]) -> Dict[str, SignatureFacts]:
    return {
        name: SignatureFacts(
            tuple(_info(tensorflow, key, info) for key, info in sorted(one.inputs.items())),
            tuple(_info(tensorflow, key, info) for key, info in sorted(one.outputs.items())),
            _METHODS.get(one.method_name, "predict"),
        )
        for name, one in defined.items()
    }


def _info(tensorflow: Any, name: str, info: Any) -> TensorFacts:
    shape: Optional[Tuple[int, ...]] = None
    if not info.tensor_shape.unknown_rank:
        shape = tuple(int(one.size) for one in info.tensor_shape.dim)
    return TensorFacts(name, _dtype(tensorflow.as_dtype(info.dtype)), shape)


def _dtype(dtype: Any) -> str:
    return OBJECT if dtype.name == "string" else "float32" if dtype.name == NARROW else str(dtype.name)


def _defined(folder: str) -> Dict[str, Any]:
    """The signatures by name, as the file defines them."""
    found: Dict[str, Any] = {}
    for meta in _stored(folder).meta_graphs:
        if "serve" in meta.meta_info_def.tags:
            found.update(meta.signature_def)
    return found


def _stored(folder: str) -> Any:
    from tensorflow.core.protobuf import saved_model_pb2

    stored = saved_model_pb2.SavedModel()
    with open(os.path.join(folder, "saved_model.pb"), "rb") as file:
        stored.ParseFromString(file.read())
    return stored
