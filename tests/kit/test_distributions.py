"""Both distributions, built and installed for real: the bare `azureml` name, and a real azureml-core that wins."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from uv import find_uv_bin

import runyard

ROOT = Path(__file__).resolve().parents[2]
INSTALL_LIMIT_S = 100

#: What the __init__ of a real azureml-core does, reduced to what matters on the path.
REAL_INIT = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n"


def run(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("wheels")
    for project in (ROOT, ROOT / "packages" / "runyard-azureml"):
        run(find_uv_bin(), "build", "--quiet", "--wheel", "--offline", "--no-build-isolation", "--python",
            sys.executable, "--out-dir", folder, project)  # fmt: skip
    return sorted(folder.glob("*.whl"))


@pytest.fixture
def python(wheels: list[Path], tmp_path: Path) -> Path:
    """The interpreter of a fresh virtual environment that holds both wheels and nothing else."""
    home = tmp_path / "venv"
    run(find_uv_bin(), "venv", "--quiet", "--offline", "--python", sys.executable, home)
    run(
        find_uv_bin(),
        "pip",
        "install",
        "--quiet",
        "--offline",
        "--no-deps",
        "--python",
        home / "bin" / "python",
        *wheels,
    )
    return home / "bin" / "python"


def site_packages(python: Path) -> Path:
    return Path(run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"))


def test_bare_name_works_where_both_are_installed(python: Path) -> None:
    version = run(python, "-c", "import azureml.core; print(azureml.core.VERSION)")
    assert version == f"1.62.0+runyard.{runyard.__version__}"
    where = run(python, "-c", "import azureml; print(azureml.__file__)")
    assert Path(where) == site_packages(python) / "runyard_azureml" / "azureml" / "__init__.py"


def test_bare_name_comes_last_on_the_path(python: Path) -> None:
    assert run(python, "-c", "import sys; print(sys.path[-1])").endswith("/runyard_azureml")


@pytest.mark.parametrize("init", ["", REAL_INIT], ids=["plain package", "package with extend_path"])
def test_real_azureml_core_wins_untouched(init: str, python: Path) -> None:
    real = site_packages(python) / "azureml" / "core"
    real.mkdir(parents=True)
    (real.parent / "__init__.py").write_text(init)
    (real / "__init__.py").write_text("VERSION = 'the real one'\n")
    assert run(python, "-c", "import azureml.core; print(azureml.core.VERSION)") == "the real one"
    only_real = "import azureml.exceptions"
    missing = subprocess.run([str(python), "-c", only_real], capture_output=True, text=True, check=False)
    assert "No module named 'azureml.exceptions'" in missing.stderr
    ours = run(python, "-c", "import runyard.azureml.core; print(runyard.azureml.core.VERSION)")
    assert ours == f"1.62.0+runyard.{runyard.__version__}"


def test_wheel_of_the_bare_name_holds_nothing_at_the_top_but_its_folder_and_path_file(wheels: list[Path]) -> None:
    names = zipfile.ZipFile(wheels[1]).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {
        "runyard_azureml",
        "runyard_azureml.pth",
    }


def test_wheel_of_runyard_needs_six_small_packages(wheels: list[Path]) -> None:
    with zipfile.ZipFile(wheels[0]) as wheel:
        metadata_name = next(name for name in wheel.namelist() if name.endswith("METADATA"))
        metadata = wheel.read(metadata_name).decode()
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert len(required) == 6
    assert "Requires-Python: >=3.7" in metadata
