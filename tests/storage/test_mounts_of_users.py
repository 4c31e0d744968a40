"""An input that is mounted for a job under a user id of its own."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.azureml.core import Dataset, Datastore, Environment, Experiment, ScriptRunConfig, Workspace
from tests.emulators.servers import S3, STORAGE
from tests.own_server import log_of, own_server
from tests.runner.test_user import NEEDED, PYTHONS

pytestmark = [*STORAGE, *NEEDED]

READS = """
import os, sys
print("mounted", os.path.ismount(sys.argv[1]), os.getuid() > 0)
print("text", open(os.path.join(sys.argv[1], "a.txt")).read())
"""


@pytest.fixture
def workspace() -> Iterator[Workspace]:
    top = tempfile.mkdtemp(prefix="runyard-user-")
    os.chmod(top, 0o711)
    with own_server(Path(top) / "home", RUNYARD_ISOLATION="user", RUNYARD_ALLOW_PRIVATE_URLS="1"):
        yield Workspace.create("storage")
    shutil.rmtree(top, ignore_errors=True)


def test_mount_is_read_by_the_jobs_user_and_then_from_the_cache(workspace: Workspace, s3: S3, tmp_path: Path) -> None:
    s3.make_bucket("users")
    store = Datastore.register(workspace, "bucket", "s3://users", endpoint=s3.endpoint, key=s3.key, secret=s3.secret)
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "a.txt").write_text("kept")
    store.upload(str(tmp_path / "up"), target_path="in", show_progress=False)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "script.py").write_text(READS)
    environment = Environment("plain")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = PYTHONS[0]
    data = Dataset.File.from_files((store, "in")).as_mount()
    config = ScriptRunConfig(str(tmp_path / "source"), "script.py", [data], environment=environment)
    for is_mounted in (True, False):
        said = log_of(Experiment(workspace, "mounts").submit(config), tmp_path)
        assert f"mounted {is_mounted} True\ntext kept" in said
