"""An article's first blocks in one's own Jupyter: a workspace's config.json and two scripts beside the notebook."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests.articles.reader import BLOCKS, OLD_ADDRESS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), pytest.mark.xdist_group("notebook")]

ROOT = Path(__file__).resolve().parents[2]
#: In a process of its own, as Jupyter would.
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read("article.ipynb", 4)
try:
    NotebookClient(notebook, timeout=250, kernel_name="python3").execute()
finally:
    nbformat.write(notebook, "article.ipynb")
"""
#: Stands for the article's, whose training takes a TensorFlow of 2019: each digit is what it is nearest to.
SCRIPT = """
import argparse
import numpy
from azureml.core import Run
from utils import load_images, load_labels
parser = argparse.ArgumentParser()
parser.add_argument("--data-folder")
folder = parser.parse_args().data_folder
images, labels = load_images(folder, "train-images.gz")[0], load_labels(folder, "train-labels.gz")
test_images, test_labels = load_images(folder, "test-images.gz")[0], load_labels(folder, "test-labels.gz")
means = numpy.stack([images[labels == digit].mean(0) for digit in range(10)])
nearest = ((test_images[:1000, None] - means) ** 2).sum(-1).argmin(1)
accuracy = float((nearest == test_labels[:1000]).mean())
print("accuracy", accuracy)
Run.get_context().log("accuracy", accuracy)
"""
SUBMIT = """
from azureml.core import Environment, ScriptRunConfig
environment = Environment("here")
environment.python.user_managed_dependencies = True
folder = ws.get_default_datastore().path("mnist").as_mount()
asked = ScriptRunConfig(script_folder, "tf_mnist.py", ["--data-folder", folder],
                        compute_target=compute_target, environment=environment)
run = exp.submit(asked)
run.wait_for_completion(show_output=True)
"""


@pytest.fixture
def variables(tmp_path: Path) -> Iterator[dict[str, str]]:
    found = {**os.environ, "RUNYARD_HOME": str(tmp_path / "home")}
    yield found
    subprocess.run([sys.executable, "-m", "runyard.cli", "down"], env=found, check=True, capture_output=True)


def test_article_begins_in_a_notebook(tmp_path: Path, variables: dict[str, str], mnist_url: str) -> None:
    config = {"subscription_id": "0-1", "resource_group": "group", "workspace_name": "from-azure"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tf_mnist.py").write_text(SCRIPT)
    shutil.copy(ROOT / "examples" / "train" / "utils.py", tmp_path)
    blocks = [(BLOCKS / f"a0_{number:02}.py.txt").read_text() for number in range(1, 8)]
    cells = [*(block.replace(OLD_ADDRESS, mnist_url) for block in blocks), SUBMIT, "run.get_metrics()", "run"]
    path = tmp_path / "article.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in cells]), path)
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *_, submitted, metrics, shown = nbformat.read(path, 4).cells
    printed = "".join(one.text for one in submitted.outputs if one.output_type == "stream")
    assert "Streaming user_logs/std_log.txt" in printed
    assert "accuracy 0." in printed
    result = metrics.outputs[0]["data"]["text/plain"]
    assert float(result.split(":")[1].rstrip("}")) > 0.7
    assert "tf-mnist" in shown.outputs[0]["data"].get("text/html", "")
