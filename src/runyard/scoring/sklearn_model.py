"""Models of scikit-learn: pickled, by joblib or not. Unpickling is why this process has a sandbox of its own."""

import pickle
from typing import Any, Dict, List, Optional, Tuple

from runyard.protocol.scoring import OBJECT, ROWS, ModelFacts, SignatureFacts, TensorFacts
from runyard.scoring.model import Arrays
from runyard.scoring.places import find_file

#: What may be asked of an estimator; of one that predicts nothing, ``transform``.
METHODS = ("predict", "predict_proba", "decision_function")
#: What a first step reads that is no table.
TEXTS, OBJECTS = "texts", "objects"
#: What a first step reads that is a table with texts in some of its columns.
MIXED = "mixed"
ENDINGS = (".joblib", ".pkl", ".pickle", ".sav")


def load(path: str) -> "SklearnModel":
    """The estimator in the model's one file."""
    return SklearnModel(unpickled(find_file(path, ENDINGS, "A scikit-learn model")))


def unpickled(file: str) -> Any:
    """The object in a file of joblib's or pickle's; joblib reads both, where it is there."""
    try:
        import joblib
    except ImportError:
        try:
            from sklearn.externals import joblib
        except ImportError:
            with open(file, "rb") as stream:
                return pickle.load(stream)
    return joblib.load(file)


class SklearnModel:
    """An estimator or a pipeline."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        self._methods = [name for name in METHODS if _has(estimator, name)]
        self._methods = self._methods or [name for name in ("transform",) if _has(estimator, name)]
        if not self._methods:
            raise ValueError(f"A {type(estimator).__name__} has no method predict or transform.")
        self._columns = tuple(str(one) for one in getattr(estimator, "feature_names_in_", ()))
        self._takes = _takes(estimator)
        #: Is it known to take nothing but float32, as some do that were fitted on such?
        self._is_narrow = False
        self._width = (
            1 if self._takes == TEXTS else getattr(estimator, "n_features_in_", None) or _first_width(estimator)
        )

    def facts(self) -> ModelFacts:
        """One signature a method; its output has the method's name."""
        import sklearn

        width = -1 if self._width is None else int(self._width)
        dtype = OBJECT if self._columns or self._takes or self._width is None else "float64"
        taken = (TensorFacts("data", dtype, (-1, width)),)
        return ModelFacts(
            kind=ROWS,
            framework="ScikitLearn",
            framework_version=sklearn.__version__,
            signatures={name: SignatureFacts(taken, _outputs(self.estimator, name)) for name in self._methods},
            default="predict" if "predict" in self._methods else self._methods[0],
            columns=self._columns,
        )

    def predict(self, signature: str, inputs: Arrays) -> Arrays:
        """Ask that method."""
        if signature not in self._methods:
            raise ValueError(f"This model has no method {signature!r}; it has {', '.join(self._methods)}.")
        result = self._asked(getattr(self.estimator, signature), self._table(inputs["data"]))
        if isinstance(result, (tuple, list)):
            # Of several outputs each has classes of its own, and all go by rows.
            return {f"{signature}_{number}": one for number, one in enumerate(result)}
        return {signature: result.toarray() if hasattr(result, "toarray") else result}

    def _asked(self, method: Any, given: Any) -> Any:
        if self._is_narrow:
            return method(_narrowed(given))
        try:
            return method(given)
        except (TypeError, ValueError) as error:
            if not _is_of_type(error) or not _is_wide(given):
                raise
            result = method(_narrowed(given))
        self._is_narrow = True
        return result

    def sample(self, signature: str) -> Optional[Arrays]:
        """A row of zeros, where the number of columns is known and they may be numbers; a text where texts are read."""
        import numpy

        if self._takes == TEXTS:
            return {"data": numpy.array(["text"], dtype=object)}
        if self._width is None or self._columns or self._takes == MIXED:
            return None
        return {"data": numpy.zeros((1, int(self._width)))}

    def _table(self, data: Any) -> Any:
        """As the estimator was fitted: a data frame where it knows its columns by name."""
        import numpy

        if data.dtype != object:
            return data
        if self._takes == TEXTS:
            return _texts(data)
        if data.ndim == 1 and len(data) and isinstance(data[0], dict):
            if self._takes == OBJECTS:
                return list(data)
            lacking = [one for one in self._columns if not all(one in row for row in data)]
            if lacking:
                raise ValueError(
                    f"A row lacks the columns {', '.join(lacking)}; null stands for a value that is missing."
                )
            return _frame(list(data), list(self._columns) or list({key: None for row in data for key in row}))
        if self._columns and data.ndim != 2:
            raise ValueError(f"Each row has the values {', '.join(self._columns)}, in this order or by name.")
        if self._columns and data.ndim == 2:
            return _frame([dict(zip(self._columns, row)) for row in data.tolist()], list(self._columns))
        if self._takes == MIXED:
            return data
        # Texts stay objects; numbers that came with texts or nothing among them become what they are.
        try:
            return data.astype(numpy.float64)
        except (TypeError, ValueError):
            return data


def _takes(estimator: Any) -> str:
    """What its first step reads, where that is no table: TEXTS or OBJECTS; MIXED or '' for a table."""
    first = _first_step(estimator)
    if hasattr(first, "build_analyzer"):
        return TEXTS
    if type(first).__name__ in ("DictVectorizer", "FeatureHasher"):
        return OBJECTS
    return MIXED if _was_fitted_on_texts(first) else ""


def _was_fitted_on_texts(step: Any) -> bool:
    """Does it hold texts that were in a column: an encoder's categories, an imputer's most frequent value?"""
    parts = [one[1] for one in getattr(step, "transformers_", getattr(step, "transformer_list", ()))]
    if parts:
        return any(_was_fitted_on_texts(_first_step(one)) for one in parts if not isinstance(one, str))
    seen = list(getattr(step, "categories_", ())) + [getattr(step, "statistics_", None)]
    return any(isinstance(value, str) for one in seen if hasattr(one, "tolist") for value in one.tolist())


def _first_step(estimator: Any) -> Any:
    """Of pipelines in pipelines, and of the best that a search has found."""
    found = getattr(estimator, "best_estimator_", estimator)
    steps = [one for _, one in getattr(found, "steps", ()) if one is not None and one != "passthrough"]
    return _first_step(steps[0]) if steps else found


def _texts(data: Any) -> List[str]:
    """One text a row, however the row is written: alone, in a list, under a name."""
    texts = []
    for row in data.tolist():
        values = list(row.values()) if isinstance(row, dict) else row if isinstance(row, list) else [row]
        if len(values) != 1 or not isinstance(values[0], str):
            raise ValueError(f"Each row is one text, and here is {row!r:.100}.")
        texts.append(values[0])
    return texts


def _frame(rows: List[Dict[str, Any]], columns: List[str]) -> Any:
    import pandas

    return pandas.DataFrame(rows, columns=columns).infer_objects()


def _is_of_type(error: Exception) -> bool:
    """Does an estimator say that it was fitted on numbers of another type? KMeans and NMF do."""
    return "Buffer dtype mismatch" in str(error) or "should have the same dtype" in str(error)


def _is_wide(given: Any) -> bool:
    kinds = getattr(given, "dtypes", [getattr(given, "dtype", None)])
    return any(str(one) == "float64" for one in kinds)


def _narrowed(given: Any) -> Any:
    import numpy

    # What float32 cannot hold becomes infinite, and is refused as such.
    with numpy.errstate(over="ignore"):
        return given.astype("float32")


def _has(estimator: Any, name: str) -> bool:
    """Methods may be there by their names and refuse: SVC without probabilities."""
    try:
        return callable(getattr(estimator, name, None))
    except Exception:  # noqa: BLE001 - an estimator's own refusal
        return False


def _first_width(estimator: Any) -> Optional[int]:
    """Columns that an estimator of before scikit-learn 0.24 was fitted on, as its own arrays tell."""
    # Later steps tell how many columns those before them make.
    step = _first_step(estimator)
    for name in ("coef_", "mean_", "scale_", "min_", "components_", "cluster_centers_", "_fit_X", "theta_"):
        shape = getattr(getattr(step, name, None), "shape", ())
        if shape:
            return int(shape[-1])
    found = getattr(step, "n_features_", None)
    return None if found is None else int(found)


def _outputs(estimator: Any, method: str) -> Tuple[TensorFacts, ...]:
    """One of the method's name; of shares of several outputs as many, numbered."""
    classes = getattr(estimator, "classes_", None)
    count = len(classes) if isinstance(classes, list) and method == "predict_proba" else 0
    names = [f"{method}_{number}" for number in range(count)] or [method]
    labels = getattr(classes, "dtype", None)
    of_predict = str(labels) if labels is not None and labels.kind in "biuf" and labels.itemsize <= 8 else OBJECT
    return tuple(TensorFacts(one, of_predict if method == "predict" else "float64", None) for one in names)
