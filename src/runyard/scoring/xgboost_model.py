"""Models of XGBoost: a booster in its own format, or an estimator that was pickled."""

from typing import Any, Optional

from runyard.protocol.scoring import TENSORS, ModelFacts, SignatureFacts, TensorFacts
from runyard.scoring import sklearn_model
from runyard.scoring.arrays import zeros
from runyard.scoring.model import Arrays, Scorer
from runyard.scoring.places import find_file
from runyard.scoring.threads import threads

ENDINGS = (".json", ".ubj", ".bst", ".model", ".xgb", *sklearn_model.ENDINGS)


def load(path: str) -> Scorer:
    """The model in the one file."""
    import xgboost

    file = find_file(path, ENDINGS, "An XGBoost model")
    if file.endswith(sklearn_model.ENDINGS):
        found = sklearn_model.unpickled(file)
        if not isinstance(found, xgboost.Booster):
            return sklearn_model.SklearnModel(found)
        return BoosterModel(xgboost, found)
    booster = xgboost.Booster({"nthread": threads()})
    booster.load_model(file)
    return BoosterModel(xgboost, booster)


class BoosterModel:
    """A booster: rows of numbers in, what its objective says out."""

    def __init__(self, xgboost: Any, booster: Any) -> None:
        self._xgboost = xgboost
        self._booster = booster
        self._columns = list(booster.feature_names or ())

    def facts(self) -> ModelFacts:
        """One signature."""
        taken = TensorFacts("data", "float32", (-1, int(self._booster.num_features())))
        signature = SignatureFacts((taken,), (TensorFacts("predict", "float32", None),))
        return ModelFacts(
            TENSORS, "XGBoost", self._xgboost.__version__, {"predict": signature}, "predict", tuple(self._columns)
        )

    def predict(self, signature: str, inputs: Arrays) -> Arrays:
        """The booster's own prediction."""
        matrix = self._xgboost.DMatrix(inputs["data"], feature_names=self._columns or None)
        return {"predict": self._booster.predict(matrix)}

    def sample(self, signature: str) -> Optional[Arrays]:
        """A row of zeros."""
        return zeros(self.facts().signatures[signature])
