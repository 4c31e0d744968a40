"""Other people's clients against a service, each in an environment of its own: KServe's, MLServer's, Triton's; curl."""

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from sklearn.datasets import load_digits

from runyard.azureml.core import Model, Webservice, Workspace
from runyard.azureml.core.webservice import AciWebservice
from runyard.environments.uv import find_uv

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("serving-clients")]

SCRIPTS = Path(__file__).parent / "scripts"
DIGITS, _ = load_digits(return_X_y=True)
KEY = "a-key-of-these-tests"


@pytest.fixture(scope="module")
def service(workspace: Workspace, trained: dict[str, Model]) -> Iterator[Webservice]:
    """A linear model of scikit-learn, open to all."""
    made = Model.deploy(workspace, "for-clients", [trained["linear"]])
    made.wait_for_deployment()
    yield made
    made.delete()


@pytest.fixture(scope="module")
def labels(service: Webservice) -> list[int]:
    """What the service's own SDK is told."""
    found: list[int] = service.run(json.dumps({"data": DIGITS[:50].tolist()}))["predict"]
    return found


@pytest.fixture
def given(tmp_path: Path, labels: list[int]) -> Path:
    """A folder with the rows, and what the model says of them."""
    numpy.save(tmp_path / "rows.npy", DIGITS[:50])
    numpy.save(tmp_path / "labels.npy", labels)
    return tmp_path


def programs(folder: Path, package: str) -> Path:
    """Where the programs of an environment with that package are."""
    for words in (
        ["venv", "--python", sys.executable, str(folder / "client")],
        ["pip", "install", "--python", str(folder / "client" / "bin" / "python"), package],
    ):
        subprocess.run([find_uv(), *words], check=True, capture_output=True)
    return folder / "client" / "bin"


def address_of(service: Webservice) -> str:
    """Without a path."""
    return "/".join(service.scoring_uri.split("/")[:3])


@pytest.mark.parametrize(("name", "package"), [("kserve", "kserve==0.21.0"), ("triton", "tritonclient[http]==2.73.0")])
def test_a_client_of_its_own_kind_asks_in_json_and_in_binary(
    service: Webservice, given: Path, name: str, package: str
) -> None:
    words = [
        programs(given, package) / "python", SCRIPTS / f"ask_{name}.py", address_of(service), given / "rows.npy",
        given / "labels.npy",
    ]  # fmt: skip
    found = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert found.stdout.endswith(f"{name} is content\n"), found.stderr


def test_mlservers_own_command_asks_for_a_file_of_requests(service: Webservice, given: Path, labels: list[int]) -> None:
    mlserver = programs(given, "mlserver==1.7.1") / "mlserver"
    lines = [
        {"id": str(number), "inputs": [{"name": "data", "shape": [1, 64], "datatype": "FP64", "data": row}]}
        for number, row in enumerate(DIGITS[:50].tolist())
    ]
    (given / "asked.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    for more in ([], ["--binary-data"]):
        answers = given / "answers.jsonl"
        words = [
            mlserver, "infer", "--url", address_of(service).partition("://")[2], "--model-name", "linear",
            "--input-data-path", given / "asked.jsonl", "--output-data-path", answers, "--batch-size", "7", *more,
        ]  # fmt: skip
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        found = {one["id"]: one["outputs"] for one in map(json.loads, answers.read_text().splitlines())}
        assert {name: one[0]["data"] for name, one in found.items()} == {
            str(number): [label] for number, label in enumerate(labels)
        }
        answers.unlink()


def curl(*words: str) -> tuple[int, Any]:
    """(status, body as JSON)."""
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--write-out", "\n%{http_code}", *words],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)


def test_curl_asks_in_json_in_csv_and_packed(service: Webservice, given: Path, labels: list[int]) -> None:
    body = json.dumps({"data": DIGITS[:50].tolist()})
    (given / "request.json").write_text(body)
    (given / "request.json.gz").write_bytes(gzip.compress(body.encode()))
    # More than 1024 bytes: curl asks first whether it may go on.
    kind = ["--header", "Content-Type: application/json", "--header", "Expect: 100-continue"]
    assert curl("--data", f"@{given}/request.json", *kind, service.scoring_uri) == (200, {"predict": labels})
    packed = ["--data-binary", f"@{given}/request.json.gz", "--header", "Content-Encoding: gzip", *kind]
    assert curl(*packed, service.scoring_uri) == (200, {"predict": labels})
    chunked = ["--header", "Transfer-Encoding: chunked", "--http2"]
    assert curl(*packed, *chunked, service.scoring_uri) == (200, {"predict": labels})
    lines = [",".join(map(str, row)) for row in [range(64), *DIGITS[:50].tolist()]]
    (given / "rows.csv").write_text("\n".join(lines) + "\n")
    csv = ["--data-binary", f"@{given}/rows.csv", "--header", "Content-Type: text/csv"]
    assert curl(*csv, address_of(service) + "/invocations") == (200, {"predictions": labels})
    tensor = {"name": "data", "shape": [50, 64], "datatype": "FP64", "parameters": {"binary_data_size": 50 * 64 * 8}}
    header = json.dumps({"inputs": [tensor]}).encode()
    (given / "tensor").write_bytes(header + DIGITS[:50].astype("<f8").tobytes())
    binary = ["--data-binary", f"@{given}/tensor", "--header", f"Inference-Header-Content-Length: {len(header)}"]
    status, answer = curl(*binary, address_of(service) + "/v2/models/linear/infer")
    assert (status, answer["outputs"][0]["data"]) == (200, labels)


def test_curl_needs_the_key_where_there_is_one(workspace: Workspace, trained: dict[str, Model]) -> None:
    config = AciWebservice.deploy_configuration(auth_enabled=True, primary_key=KEY)
    service = Model.deploy(workspace, "for-holders-of-keys", [trained["linear"]], deployment_config=config)
    service.wait_for_deployment()
    body = ["--data", json.dumps({"data": DIGITS[:1].tolist()}), service.scoring_uri]
    status, answer = curl(*body)
    assert (status, "Bearer <key>" in answer["error"]) == (401, True)
    status, answer = curl("--header", f"Authorization: Bearer {KEY}", *body)
    assert (status, len(answer["predict"])) == (200, 1)
    service.delete()
