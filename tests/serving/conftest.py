"""A server, models that its runs have made, and services of them; and a front by itself."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Model, Webservice, Workspace
from runyard.azureml.core.model import ResourceConfiguration
from runyard.scoring.program import CompiledModel
from tests.own_server import own_server, submit_here
from tests.serving.fronts import digits_model, serving

#: Trains on real digits, and saves what the tests deploy.
TRAINING = """
import joblib, os
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
X, y = load_digits(return_X_y=True)
for name, model in {
    "linear": make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)),
    "forest": RandomForestClassifier(20, random_state=0),
    "support": SVC(),
}.items():
    os.makedirs("outputs/" + name)
    joblib.dump(model.fit(X, y), "outputs/" + name + "/model.joblib")
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """On a server of the module's own."""
    with own_server(tmp_path_factory.mktemp("serving-home")):
        yield Workspace.create("serving", exist_ok=True)


@pytest.fixture(scope="module")
def trained(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """Models of scikit-learn, each from a run in the tests' own interpreter, which serves them."""
    run = submit_here(workspace, tmp_path_factory.mktemp("training"), TRAINING)
    run.wait_for_completion()
    return {
        name: run.register_model(
            name,
            f"outputs/{name}/model.joblib",
            model_framework=Model.Framework.SCIKITLEARN,
            resource_configuration=ResourceConfiguration(cpu=1, memory_in_gb=0.5),
        )
        for name in ("linear", "forest", "support")
    }


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    """A compiled model of real digits, for a front in the tests' own process."""
    return digits_model()


@pytest.fixture
def front(model: CompiledModel) -> Iterator[tuple[int, Any, Any]]:
    """A front that serves it: (port, event loop, connections)."""
    with serving(model) as found:
        yield found


Deploy = Callable[..., Webservice]


@pytest.fixture
def deploy(workspace: Workspace) -> Iterator[Deploy]:
    """Deploys, waits, and deletes at the end."""
    made: dict[str, Webservice] = {}

    def begin(name: str, models: Any, *args: Any, **kwargs: Any) -> Webservice:
        service = made[name] = Model.deploy(workspace, name, models, *args, **kwargs)
        service.wait_for_deployment()
        return service

    yield begin
    for name in made:
        if name in workspace.webservices:
            workspace.webservices[name].delete()


@pytest.fixture
def script_folder(tmp_path: Path) -> Callable[[str], str]:
    """Writes an entry script of that text; returns its folder."""

    def write(text: str) -> str:
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        (folder / "score.py").write_text(text)
        return str(folder)

    return write
