"""Models of LightGBM: a booster in its own text format, or an estimator that was pickled."""

from typing import Any, Optional

from runyard.protocol.scoring import TENSORS, ModelFacts, SignatureFacts, TensorFacts
from runyard.scoring import sklearn_model
from runyard.scoring.arrays import zeros
from runyard.scoring.model import Arrays, Scorer
from runyard.scoring.places import find_file
from runyard.scoring.threads import threads

ENDINGS = (".txt", ".lgb", ".model", *sklearn_model.ENDINGS)


def load(path: str) -> Scorer:
    """The model in the one file."""
    import lightgbm

    file = find_file(path, ENDINGS, "A LightGBM model")
    if file.endswith(sklearn_model.ENDINGS):
        found = sklearn_model.unpickled(file)
        if not isinstance(found, lightgbm.Booster):
            return sklearn_model.SklearnModel(found)
        return BoosterModel(lightgbm, found)
    return BoosterModel(lightgbm, lightgbm.Booster(model_file=file))


class BoosterModel:
    """A booster: rows of numbers in, what its objective says out."""

    def __init__(self, lightgbm: Any, booster: Any) -> None:
        self._lightgbm = lightgbm
        self._booster = booster

    def facts(self) -> ModelFacts:
        """One signature."""
        taken = TensorFacts("data", "float64", (-1, int(self._booster.num_feature())))
        signature = SignatureFacts((taken,), (TensorFacts("predict", "float64", None),))
        columns = tuple(str(one) for one in self._booster.feature_name())
        # LightGBM's own names, where it was given none.
        if columns == tuple(f"Column_{number}" for number in range(len(columns))):
            columns = ()
        return ModelFacts(TENSORS, "LightGBM", self._lightgbm.__version__, {"predict": signature}, "predict", columns)

    def predict(self, signature: str, inputs: Arrays) -> Arrays:
        """The booster's own prediction."""
        return {"predict": self._booster.predict(inputs["data"], num_threads=threads())}

    def sample(self, signature: str) -> Optional[Arrays]:
        """A row of zeros."""
        return zeros(self.facts().signatures[signature])
