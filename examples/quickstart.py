"""The main job, end to end: data, cluster, environment, run, metrics, model. Run it again: everything is reused."""

import argparse
import sys
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

from azureml.core import Dataset, Environment, Experiment, Model, ScriptRunConfig, Workspace
from azureml.core.compute import AmlCompute, ComputeTarget
from azureml.core.compute_target import ComputeTargetException
from digits import write_digits

from runyard.sdk.session import current_server

HERE = Path(__file__).resolve().parent
WORK = HERE.parent / ".quickstart"
STEPS = 8
ARGUMENTS = ["--batch-size", 64, "--first-layer-neurons", 256, "--second-layer-neurons", 128]


class Steps:
    """Says which step begins, and how long the last one took."""

    def __init__(self):
        self.number = 0
        self.began_at = time.monotonic()

    def begin(self, title):
        """The next step."""
        self.number += 1
        self.began_at = time.monotonic()
        print(f"\n[{self.number}/{STEPS}] {title}", flush=True)

    def done(self, what):
        """What the step came to."""
        print(f"      {what} ({time.monotonic() - self.began_at:.1f} s)", flush=True)


def main():
    """Carry out the job; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="scikit-learn instead of TensorFlow")
    small = parser.parse_args().small
    steps = Steps()

    steps.begin("Server and workspace")
    workspace = Workspace.create("quickstart", exist_ok=True)
    steps.done(f"workspace {workspace.name!r} at {current_server().address()}")

    steps.begin("Digits, uploaded and registered as a dataset")
    dataset, what = register_digits(workspace)
    steps.done(f"{what}: dataset {dataset.name!r} version {dataset.version}, {len(dataset.to_path())} files")

    steps.begin("Cluster of 0 to 4 nodes")
    cluster = find_cluster(workspace)
    status = cluster.get_status()
    most = status.scale_settings.maximum_node_count
    steps.done(f"{cluster.name!r}: {status.current_node_count} nodes now, {most} at most")

    steps.begin("Environment and submission")
    environment, config = make_config(small, dataset, cluster)
    run = Experiment(workspace, "digits").submit(config, tags={"from": "quickstart"})
    steps.done(f"run {run.id} in environment {environment.name!r}; a first build takes a minute")

    steps.begin("The run, as it goes")
    run.wait_for_completion(show_output=True)
    steps.done(f"run {run.get_status()}")

    steps.begin("Metrics")
    show_metrics(run.get_metrics())

    steps.begin("Model, registered and downloaded")
    framework = Model.Framework.SCIKITLEARN if small else Model.Framework.TENSORFLOW
    model = run.register_model("digits", "outputs/model", model_framework=framework)
    folder = model.download(str(WORK / "model"), exist_ok=True)
    steps.done(f"{model.name} version {model.version} in {folder}")

    steps.begin("Where to look next")
    show_next(run)
    return 0


def register_digits(workspace):
    """(the dataset, what the digits are)."""
    what = write_digits(WORK / "digits")
    datastore = workspace.get_default_datastore()
    datastore.upload(str(WORK / "digits"), "digits", overwrite=True)
    dataset = Dataset.File.from_files(path=(datastore, "digits"))
    return dataset.register(workspace, "digits", description=what, create_new_version=True), what


def find_cluster(workspace):
    """The cluster, made if there is none."""
    try:
        return ComputeTarget(workspace, "cpu-cluster")
    except ComputeTargetException:
        config = AmlCompute.provisioning_configuration(vm_size="STANDARD_D2_V2", min_nodes=0, max_nodes=4)
        cluster = ComputeTarget.create(workspace, "cpu-cluster", config)
        cluster.wait_for_completion()
        return cluster


def make_config(small, dataset, cluster):
    """(environment, what to run in it)."""
    name, file, script, rate = (
        ("sklearn", "sklearn_dependencies.yml", "sklearn_mnist.py", 0.001)
        if small
        else ("tensorflow", "conda_dependencies.yml", "tf_mnist.py", 0.1)
    )
    environment = Environment.from_conda_specification(name, str(HERE / "train" / file))
    if not small:
        environment.python.conda_dependencies.set_python_version("{}.{}".format(*sys.version_info))
    config = ScriptRunConfig(
        source_directory=str(HERE / "train"),
        script=script,
        arguments=["--data-folder", dataset.as_mount(), *ARGUMENTS, "--learning-rate", rate, "--epochs", 10],
        compute_target=cluster,
        environment=environment,
    )
    return environment, config


def show_metrics(metrics):
    """A small table, and a plot of the accuracy."""
    series = {name: values for name, values in metrics.items() if isinstance(values, list)}
    print("      epoch  " + "  ".join(f"{name:>16}" for name in series))
    for epoch, row in enumerate(zip(*series.values(), strict=False), start=1):
        print(f"      {epoch:>5}  " + "  ".join(f"{value:>16.4f}" for value in row))
    try:
        import plotext
    except ImportError:
        return
    figure = plotext.figure
    figure.plot_size(64, 12)
    figure.title("validation_acc by epoch")
    figure.draw(figure.signal(series["validation_acc"]))
    print()
    figure.show(colorless=True)


def show_next(run):
    """Commands, and a link that signs a browser in."""
    path = urlsplit(run.get_portal_url()).path
    ticket = current_server().call("create_ticket").ticket
    address = current_server().address()
    print(f"      The run's page (this link works once): {address}/login?ticket={ticket}&next={quote(path)}")
    for command in (
        "run list -w quickstart",
        f"run show {run.id} -w quickstart",
        f"run logs {run.id} -w quickstart",
        "model list -w quickstart",
        "open -w quickstart latest",
        "down",
    ):
        print(f"      .venv/bin/runyard {command}")


if __name__ == "__main__":
    sys.exit(main())
