"""Pipelines of scikit-learn that read columns by their names, texts, or objects, deployed and asked in JSON."""

import json

import pytest

from runyard.azureml.core import Model, Workspace
from tests.own_server import submit_here
from tests.serving.asking import infer, post
from tests.serving.conftest import Deploy

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("serving")]

TRAINING = """
import joblib, os
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
os.makedirs("outputs", exist_ok=True)
people = pd.DataFrame({
    "age": [20, 35, 50, 65, None, 30] * 3, "city": ["Rome", "Oslo", "Rome", "Oslo", "Bern", "Bern"] * 3,
    "member": [True, False] * 9,
})
columns = ColumnTransformer([
    ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age"]),
    ("kinds", OneHotEncoder(handle_unknown="ignore"), ["city", "member"]),
])
joblib.dump(make_pipeline(columns, LogisticRegression()).fit(people, ["in", "out"] * 9), "outputs/people.joblib")
places = ColumnTransformer([
    ("numbers", SimpleImputer(), [0]), ("kinds", OneHotEncoder(handle_unknown="ignore"), [1, 2]),
])
positions = make_pipeline(places, LogisticRegression()).fit(people.to_numpy(dtype=object), ["in", "out"] * 9)
joblib.dump(positions, "outputs/positions.joblib")
films = ["good film", "bad film", "very good", "very bad"] * 3
texts = GridSearchCV(make_pipeline(TfidfVectorizer(), LogisticRegression()), {"logisticregression__C": [1, 10]}, cv=3)
joblib.dump(texts.fit(films, [1, 0] * 6), "outputs/films.joblib")
things = make_pipeline(DictVectorizer(), LogisticRegression())
things.fit([{"color": "red"}, {"color": "blue"}, {"color": "red", "size": 2}, {"color": "blue"}], [1, 0, 1, 0])
joblib.dump(things, "outputs/things.joblib")
"""


@pytest.fixture(scope="module")
def pipelines(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """From one run in the tests' own interpreter."""
    run = submit_here(workspace, tmp_path_factory.mktemp("pipelines"), TRAINING)
    run.wait_for_completion()
    framework = Model.Framework.SCIKITLEARN
    names = ("people", "positions", "films", "things")
    return {name: run.register_model(name, f"outputs/{name}.joblib", model_framework=framework) for name in names}


def test_a_pipeline_of_named_columns_takes_rows_as_lists_and_as_objects(
    pipelines: dict[str, Model], deploy: Deploy
) -> None:
    service = deploy("people", [pipelines["people"]])
    rows = [[20, "Rome", True], [None, "Oslo", False]]
    assert service.run(json.dumps({"data": rows})) == {"predict": ["in", "out"]}
    named = [{"city": city, "member": member, "age": age} for age, city, member in rows]
    assert service.run(json.dumps({"data": named})) == {"predict": ["in", "out"]}
    shares = service.run(json.dumps({"data": named, "method": "predict_proba"}))["predict_proba"]
    assert [row.index(max(row)) for row in shares] == [0, 1]
    base = service.scoring_uri.rpartition("/")[0]
    table = {"dataframe_split": {"columns": ["member", "city", "age"], "data": [row[::-1] for row in rows]}}
    assert post(base + "/invocations", table) == (200, {"predictions": ["in", "out"]})
    found = infer(base, "people", age=("FP64", [20.0]), city=("BYTES", ["Rome"]), member=("BOOL", [True]))
    assert found["predict"] == ["in"]
    for data, said in (
        ([{"city": "Rome", "member": True}], "lacks the columns age"),
        ([["Rome", True]], "[any, 3]"),
        (["Rome"], "age, city, member"),
    ):
        status, answer = post(service.scoring_uri, {"data": data})
        assert status >= 400
        assert said in answer["error"]


def test_columns_of_texts_without_names_go_by_their_order(pipelines: dict[str, Model], deploy: Deploy) -> None:
    service = deploy("positions", [pipelines["positions"]])
    rows = [[20, "Rome", True], [None, "Oslo", False], [40, "Paris", True]]
    assert service.run(json.dumps({"data": rows})) == {"predict": ["in", "out", "in"]}
    # A row of numbers alone is not taken for one of numbers: what is unknown is ignored, as it was fitted.
    assert service.run(json.dumps({"data": [[20, 5, True]]})) == {"predict": ["in"]}


def test_a_pipeline_that_reads_texts_takes_them_however_they_are_written(
    pipelines: dict[str, Model], deploy: Deploy
) -> None:
    service = deploy("films", [pipelines["films"]])
    for data in (["good film", "bad"], [["good film"], ["bad"]], [{"text": "good film"}, {"text": "bad"}]):
        assert service.run(json.dumps({"data": data})) == {"predict": [1, 0]}
    base = service.scoring_uri.rpartition("/")[0]
    assert infer(base, "films", text=("BYTES", ["good film", "bad"]))["predict"] == [1, 0]
    assert post(base + "/invocations", {"dataframe_split": {"columns": ["text"], "data": [["bad"]]}})[1] == {
        "predictions": [0]
    }
    status, answer = post(service.scoring_uri, {"data": [3]})
    assert status >= 400
    assert "one text" in answer["error"]


def test_a_pipeline_that_reads_objects_gets_them(pipelines: dict[str, Model], deploy: Deploy) -> None:
    service = deploy("things", [pipelines["things"]])
    data = [{"color": "blue"}, {"size": 2, "color": "red"}]
    assert service.run(json.dumps({"data": data})) == {"predict": [0, 1]}
