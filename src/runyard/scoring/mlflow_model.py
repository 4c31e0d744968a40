"""Models that MLflow has saved, in whatever flavour: by its pyfunc."""

import json
from typing import Any, Dict, List, Optional

from runyard.protocol.scoring import OBJECT, ROWS, ModelFacts, SignatureFacts, TensorFacts
from runyard.scoring.model import Arrays
from runyard.scoring.places import find_folder


def load(path: str) -> "MlflowModel":
    """The model in the folder that has the file MLmodel."""
    import mlflow

    folder = find_folder(path, "MLmodel")
    if not folder:
        raise ValueError("An MLflow model is a folder with a file MLmodel; there is none.")
    return MlflowModel(mlflow.__version__, mlflow.pyfunc.load_model(folder))


class MlflowModel:
    """A pyfunc: a data frame in, anything out."""

    def __init__(self, version: str, model: Any) -> None:
        self._version = version
        self._model = model
        schema = model.metadata.get_input_schema()
        self._schema: Any = schema or None
        self._is_tensor = bool(schema and schema.is_tensor_spec())
        inputs = list(schema.inputs) if schema and not self._is_tensor else []
        self._width = len(inputs) or -1
        has_names = bool(inputs) and all(one.name is not None for one in inputs)
        self._columns: List[str] = [str(one.name) for one in inputs] if has_names else []
        self._optional = tuple(str(one.name) for one in inputs if has_names and not _is_needed(one))

    def facts(self) -> ModelFacts:
        """One signature, over rows."""
        taken = TensorFacts("data", OBJECT, (-1, self._width))
        signature = SignatureFacts((taken,), (TensorFacts("predict", OBJECT, None),))
        columns = tuple(self._columns)
        return ModelFacts(ROWS, "MLflow", self._version, {"predict": signature}, "predict", columns, self._optional)

    def predict(self, signature: str, inputs: Arrays) -> Arrays:
        """As MLflow's own server would."""
        import numpy

        result = self._model.predict(self._given(inputs["data"]))
        if hasattr(result, "to_dict") and hasattr(result, "columns"):
            result = numpy.array([*result.to_dict("records"), None], dtype=object)[:-1]
        return {"predict": numpy.asarray(result)}

    def sample(self, signature: str) -> Optional[Arrays]:
        """The example that was saved with the model, where there is one."""
        example = self._model.metadata.saved_input_example_info
        if not example:
            return None
        frame = self._model.input_example
        if not hasattr(frame, "to_json"):
            return None
        return {"data": _objects(json.loads(frame.to_json(orient="records")))}

    def _given(self, data: Any) -> Any:
        import numpy
        import pandas

        rows = data.tolist()
        inputs: List[Any] = [] if self._schema is None else list(self._schema.inputs)
        if self._is_tensor and len(inputs) == 1:
            return numpy.array(rows, dtype=inputs[0].type)
        if rows and isinstance(rows[0], dict):
            return self._typed(pandas.DataFrame(rows).infer_objects())
        return self._typed(pandas.DataFrame(rows, columns=self._columns or None).infer_objects())

    def _typed(self, frame: Any) -> Any:
        """JSON has one kind of number, a signature several, and MLflow turns none into another that may lose."""
        for one in self._schema.inputs if self._schema is not None and self._columns else ():
            wanted = getattr(one.type, "to_numpy", None)
            given = frame.get(one.name)
            if wanted is None or given is None or wanted().kind not in "iuf" or given.dtype.kind not in "iuf":
                continue
            made = given.astype(wanted()) if wanted().kind == "f" or given.notna().all() else given
            if wanted().kind == "f" or bool((made == given).all()):
                frame[one.name] = made
        return frame


def _is_needed(column: Any) -> bool:
    """MLflow has turned the word round."""
    return bool(column.required) if hasattr(column, "required") else not getattr(column, "optional", False)


def _objects(rows: List[Dict[str, Any]]) -> Any:
    import numpy

    made = numpy.empty(len(rows), dtype=object)
    made[:] = rows
    return made
