"""Compiled models against what they were compiled from."""

import warnings
from pathlib import Path
from typing import Any

import numpy
import pytest
from sklearn import (
    cluster,
    decomposition,
    discriminant_analysis,
    ensemble,
    feature_selection,
    impute,
    linear_model,
    naive_bayes,
    neural_network,
    preprocessing,
    svm,
    tree,
)
from sklearn.datasets import load_diabetes, load_digits
from sklearn.pipeline import make_pipeline

from runyard.scoring.builder import CannotCompileError
from runyard.scoring.compile import _sklearn, check
from runyard.scoring.operators import OPERATORS
from runyard.scoring.program import CompiledModel, load_program, save_program
from runyard.scoring.sklearn_model import SklearnModel

DIGITS, LABELS = load_digits(return_X_y=True)
LETTERS = numpy.array(list("abcdefghij"))[LABELS]
TWO = LABELS > 4
MEASURES, PROGRESS = load_diabetes(return_X_y=True)

CLASSIFIERS = {
    "logistic": make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression(max_iter=50)),
    "components": make_pipeline(decomposition.PCA(20, whiten=True), linear_model.LogisticRegression(max_iter=50)),
    "forest": ensemble.RandomForestClassifier(10, random_state=0),
    "scaled trees": make_pipeline(preprocessing.MinMaxScaler(clip=True), ensemble.ExtraTreesClassifier(10)),
    "tree": tree.DecisionTreeClassifier(max_depth=5),
    "boosting": ensemble.GradientBoostingClassifier(n_estimators=3),
    "perceptron": neural_network.MLPClassifier((20,), max_iter=5),
    "bayes": naive_bayes.GaussianNB(var_smoothing=1e-3),
    "vectors": make_pipeline(preprocessing.Normalizer(), svm.LinearSVC()),
    "descent": make_pipeline(preprocessing.RobustScaler(), linear_model.SGDClassifier(loss="log_loss")),
    "ridge": linear_model.RidgeClassifier(),
    "discriminant": make_pipeline(
        feature_selection.VarianceThreshold(), discriminant_analysis.LinearDiscriminantAnalysis()
    ),
}
REGRESSORS = {
    "linear": linear_model.LinearRegression(),
    "imputed": make_pipeline(impute.SimpleImputer(), preprocessing.MaxAbsScaler(), linear_model.Ridge()),
    "lasso": linear_model.Lasso(),
    "forest": ensemble.RandomForestRegressor(5),
    "boosting": ensemble.GradientBoostingRegressor(n_estimators=5),
    "perceptron": neural_network.MLPRegressor(hidden_layer_sizes=(10,), max_iter=5),
    "selected": make_pipeline(feature_selection.SelectKBest(k=4), linear_model.ElasticNet()),
}


def compiled(estimator: Any) -> tuple[SklearnModel, CompiledModel]:
    scorer = SklearnModel(estimator)
    return scorer, CompiledModel(*_sklearn(scorer))


def fitted(estimator: Any, data: Any, wanted: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(data, wanted)


@pytest.mark.parametrize("labels", [LABELS, LETTERS, TWO], ids=["ten numbers", "ten letters", "two truths"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_compiled_classifier_gives_the_same_labels_and_shares(name: str, labels: Any) -> None:
    original, made = compiled(fitted(CLASSIFIERS[name], DIGITS, labels))
    assert check(original, made)["why"] in ("", "it would be slower than the original")
    for method in original.facts().signatures:
        expected = original.predict(method, {"data": DIGITS})[method]
        found = made.predict(method, {"data": DIGITS})[method]
        if method == "predict":
            assert (found == expected).all()
            assert found.dtype == expected.dtype
        else:
            numpy.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", REGRESSORS)
def test_a_compiled_regressor_gives_the_same_numbers(name: str) -> None:
    original, made = compiled(fitted(REGRESSORS[name], MEASURES, PROGRESS))
    expected = original.predict("predict", {"data": MEASURES})["predict"]
    numpy.testing.assert_allclose(made.predict("predict", {"data": MEASURES})["predict"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("estimator", "method"), [(cluster.KMeans(5, n_init=1), "predict"), (decomposition.PCA(3), "transform")]
)
def test_clusters_and_transformers_are_compiled(estimator: Any, method: str) -> None:
    original, made = compiled(fitted(estimator, MEASURES, None))
    expected = original.predict(method, {"data": MEASURES})[method]
    numpy.testing.assert_allclose(made.predict(method, {"data": MEASURES})[method], expected, atol=1e-9)


@pytest.mark.parametrize("name", ["logistic", "forest"])
@pytest.mark.parametrize("value", [numpy.nan, numpy.inf], ids=["no number", "infinite"])
def test_what_the_original_refuses_is_refused_and_what_it_takes_is_taken(name: str, value: float) -> None:
    original, made = compiled(fitted(CLASSIFIERS[name], DIGITS, LABELS))
    row = DIGITS[:1].copy()
    row[0, 20] = value
    try:
        expected = original.predict("predict", {"data": row})["predict"]
    except ValueError:
        with pytest.raises(ValueError, match="contains"):
            made.predict("predict", {"data": row})
    else:
        assert made.predict("predict", {"data": row})["predict"] == expected


HARD = {
    "too large for a tree": (tree.DecisionTreeRegressor(max_depth=3), 1e39),
    "too large for boosting": (ensemble.GradientBoostingRegressor(n_estimators=3), -1e39),
    "missing before components": (make_pipeline(decomposition.PCA(3), ensemble.RandomForestRegressor(3)), numpy.nan),
    "missing before norms": (make_pipeline(preprocessing.Normalizer(), ensemble.RandomForestRegressor(3)), numpy.nan),
    "missing in a scaled column": (
        make_pipeline(preprocessing.StandardScaler(), ensemble.RandomForestRegressor(3)),
        numpy.nan,
    ),
    "nearly nothing": (make_pipeline(preprocessing.Normalizer(), linear_model.Ridge()), 1e-30),
}


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # scikit-learn's own, before it refuses.
@pytest.mark.parametrize("name", HARD)
def test_hard_values_get_the_originals_answer_or_refusal(name: str) -> None:
    estimator, value = HARD[name]
    original, made = compiled(fitted(estimator, MEASURES, PROGRESS))
    rows = {"data": numpy.full((2, MEASURES.shape[1]), value)}
    try:
        expected = original.predict("predict", rows)["predict"]
    except ValueError:
        with pytest.raises(ValueError, match="contains"):
            made.predict("predict", rows)
    else:
        numpy.testing.assert_allclose(made.predict("predict", rows)["predict"], expected, rtol=1e-9)


def test_a_large_row_is_put_into_the_cluster_that_the_original_names() -> None:
    original, made = compiled(cluster.KMeans(5, random_state=0, n_init=1).fit(DIGITS))
    for value in (1e15, -1e15, 1e39, -1e39):
        rows = {"data": numpy.eye(DIGITS.shape[1]) * value}
        assert (made.predict("predict", rows)["predict"] == original.predict("predict", rows)["predict"]).all()


def test_labels_that_are_texts_of_a_data_frame_are_compiled() -> None:
    original, made = compiled(fitted(linear_model.LogisticRegression(max_iter=20), DIGITS, LETTERS.astype(object)))
    assert made.predict("predict", {"data": DIGITS})["predict"].dtype == object
    assert check(original, made)["why"] in ("", "it would be slower than the original")


def test_what_has_no_exact_form_says_which_part() -> None:
    class Own(linear_model.LogisticRegression):
        """A class of one's own may do anything."""

    for estimator, said in ((svm.SVC(), "SVC"), (Own(max_iter=5), "Own")):
        with pytest.raises(CannotCompileError, match=said):
            compiled(fitted(estimator, DIGITS[:200], LABELS[:200]))
    pandas = pytest.importorskip("pandas")
    named = fitted(linear_model.LinearRegression(), pandas.DataFrame({"a": [1, 2, 3], "b": [1, 1, 2]}), [1, 2, 3])
    with pytest.raises(CannotCompileError, match="by name"):
        compiled(named)


def test_a_compiled_model_that_differs_is_found_out() -> None:
    original, _ = compiled(fitted(linear_model.LogisticRegression(max_iter=5), DIGITS, LABELS))
    _, other = compiled(fitted(linear_model.LogisticRegression(max_iter=6), DIGITS, LABELS))
    assert "differs from the original" in check(original, other)["why"]


def test_a_program_is_stored_as_data_and_read_again(tmp_path: Path) -> None:
    original, _ = compiled(fitted(CLASSIFIERS["scaled trees"], DIGITS, LETTERS))
    assert list(tmp_path.iterdir()) == []
    save_program(str(tmp_path), *_sklearn(original))
    again = load_program(str(tmp_path))
    assert (
        again.predict("predict", {"data": DIGITS})["predict"]
        == original.predict("predict", {"data": DIGITS})["predict"]
    ).all()
    assert again.facts() == original.facts()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["constants.npz", "program.json"]
    assert numpy.load(tmp_path / "constants.npz", allow_pickle=False).files


@pytest.mark.parametrize(
    ("name", "attributes", "kernel"),
    [
        ("Conv", {"strides": [1, 1], "padding": "SAME"}, (3, 3, 2, 4)),
        ("DepthwiseConv", {"strides": [1, 1], "padding": "VALID"}, (3, 3, 2, 1)),
        ("MaxPool", {"size": [2, 2], "strides": [2, 2], "padding": "VALID"}, None),
        ("AveragePool", {"size": [2, 2], "strides": [2, 2], "padding": "SAME"}, None),
    ],
)
def test_of_no_images_there_is_no_answer_and_no_error(name: str, attributes: Any, kernel: Any) -> None:
    function = OPERATORS[name](**attributes)
    constants = [] if kernel is None else [numpy.ones(kernel, "float32")]
    some, none = (function(numpy.ones((count, 6, 6, 2), "float32"), *constants) for count in (1, 0))
    assert none.shape == (0, *some.shape[1:])
