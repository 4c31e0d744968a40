"""What a service is asked to be: settings, keys, tokens and changes, by v1's rules, on a real server."""

import json
import math
import os
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from runyard.azureml.core import Environment, Model, Webservice, Workspace
from runyard.azureml.core.image import ContainerImage, Image
from runyard.azureml.core.model import InferenceConfig
from runyard.azureml.core.webservice import AciWebservice, AksWebservice, LocalWebservice
from runyard.errors import UserErrorException, WebserviceException
from runyard.protocol.services import Autoscale, Deployment, ServiceChange, sign_token
from runyard.sdk import notices
from tests.engines.engines import wait_until
from tests.serving.asking import post
from tests.serving.conftest import Deploy

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("serving")]

DIGITS, LABELS = load_digits(return_X_y=True)
BODY = {"data": DIGITS[:1].tolist()}
ECHO = "def run(data):\n    return data\n"
BROKEN = "def init():\n    raise RuntimeError('no such luck')\n\ndef run(data):\n    return 0\n"


def here() -> Environment:
    environment = Environment("as-it-is")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = sys.executable
    return environment


def aks(**settings: Any) -> Callable[[], Any]:
    return lambda: AksWebservice.deploy_configuration(**settings)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        *((aks(**{name: value}), f"{name} is a number above 0, not")
          for name in ("cpu_cores", "memory_gb", "cpu_cores_limit", "memory_gb_limit", "scoring_timeout_ms",
                       "max_request_wait_time")
          for value in (0, -1, math.nan, math.inf, 1e300, 10**30, "x", True, [1])),
        *((aks(**{name: value}), f"{name} is a whole number of at least 1, not")
          for name in ("num_replicas", "replica_max_concurrent_requests", "period_seconds", "initial_delay_seconds",
                       "timeout_seconds", "success_threshold", "failure_threshold")
          for value in (0, -1, 1.5, math.nan, math.inf, 10**30, "x", True, [1])),
        *((aks(autoscale_enabled=True, autoscale_refresh_seconds=value), "autoscale_refresh_seconds is a number")
          for value in (0, math.nan, math.inf, "x")),
        (aks(gpu_cores=-1), "gpu_cores is a whole number of at least 0, not -1"),
        (aks(cpu_cores=2, cpu_cores_limit=1), "cpu_cores_limit is a number of at least 2, as cpu_cores is, not 1"),
        (aks(namespace="Not A Namespace"), "namespace has 1 to 63 lower-case letters"),
        *((aks(**{name: "yes"}), f"{name} is True or False, not 'yes'")
          for name in ("auth_enabled", "token_auth_enabled", "autoscale_enabled", "collect_model_data")),
        (lambda: AciWebservice.deploy_configuration(memory_gb=math.inf), "memory_gb is a number above 0, not inf"),
        (lambda: AciWebservice.deploy_configuration(ssl_enabled=1), "ssl_enabled is True or False, not 1"),
        (lambda: LocalWebservice.deploy_configuration(port=True), "A port is from 1 to 65535, not True"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_refused_by_its_name_where_it_is_given(config: Any, said: str) -> None:
    with pytest.raises(WebserviceException, match=re.escape(said)):
        config()


@pytest.mark.parametrize("more", [{}, {"num_replicas": 2}, {"autoscale_enabled": False, "num_replicas": 2}])
@pytest.mark.parametrize("name", ["min_replicas", "max_replicas", "refresh_seconds", "target_utilization"])
def test_settings_of_autoscale_need_autoscale_as_in_v1(name: str, more: dict[str, Any]) -> None:
    with pytest.raises(WebserviceException, match=f"autoscale_{name} needs autoscale_enabled=True"):
        AksWebservice.deploy_configuration(**{"autoscale_" + name: 2}, **more)


def test_numbers_of_numpy_are_numbers() -> None:
    made = AksWebservice.deploy_configuration(cpu_cores=np.float32(0.5), num_replicas=np.int64(2))
    assert (made.deployment.cpu, made.deployment.replicas) == (0.5, 2)
    assert type(made.deployment.replicas) is int


@pytest.mark.parametrize(
    "deployment",
    [
        Deployment(cpu=math.inf), Deployment(memory_gb=-1.0), Deployment(memory_gb_limit=0.0), Deployment(gpu=-1),
        Deployment(concurrent_requests=10**30), Deployment(port=70_000),
        Deployment(autoscale=Autoscale(refresh_s=math.inf)), Deployment(autoscale=Autoscale(refresh_s=math.nan)),
    ],
)  # fmt: skip
def test_a_server_refuses_what_another_client_would_send(
    workspace: Workspace, trained: dict[str, Model], deploy: Deploy, deployment: Deployment
) -> None:
    service = deploy("bounds", [trained["linear"]], overwrite=True)
    with pytest.raises(WebserviceException, match=r"number|port|1 to 100,000|autoscale_refresh_seconds"):
        service._change(ServiceChange(deployment=deployment))


def test_what_an_update_does_not_speak_of_stays(trained: dict[str, Model], deploy: Deploy) -> None:
    asked = AksWebservice.deploy_configuration(
        autoscale_enabled=True, autoscale_min_replicas=2, autoscale_max_replicas=4, memory_gb=1, memory_gb_limit=2
    )
    service = deploy("stays-so", [trained["linear"]], deployment_config=asked)
    assert isinstance(service, AksWebservice)
    service.update(autoscale_max_replicas=3)
    assert service._record.spec.deployment.autoscale == Autoscale(2, 3)
    # Neither opens a service that had a key.
    service.update(token_auth_enabled=False)
    assert service.auth_enabled
    service.update(token_auth_enabled=True, auth_enabled=False)
    service.update(auth_enabled=False)
    assert service.token_auth_enabled
    for given, said in (
        ({}, "nothing to change"), ({"num_replica": 3}, "knows no setting 'num_replica'"),
        ({"cpu_cores": -1}, "cpu_cores is a number above 0"), ({"memory_gb": 3}, "memory_gb_limit is a number"),
        ({"primary_key": "k" * 20}, "regen_key"), ({"image": "some:1"}, "ContainerImage.create"),
    ):  # fmt: skip
        with pytest.raises(WebserviceException, match=said):
            service.update(**given)
    service.update(num_replicas=1)
    assert service._record.spec.deployment.autoscale is None


def test_each_kind_refuses_an_update_that_says_nothing_or_what_it_does_not_know(
    trained: dict[str, Model], deploy: Deploy
) -> None:
    service: Any = deploy("asked", [trained["linear"]])
    with pytest.raises(WebserviceException, match="nothing to change"):
        service.update()
    with pytest.raises(WebserviceException, match="knows no setting 'cpu_core'"):
        service.update(cpu_core=1)
    with pytest.raises(WebserviceException, match="inference_config is an InferenceConfig, not"):
        service.update(inference_config="score.py")
    local: Any = deploy("asked-here", [trained["linear"]], deployment_config=LocalWebservice.deploy_configuration())
    with pytest.raises(WebserviceException, match="nothing to change"):
        local.update()
    with pytest.raises(WebserviceException, match=r"LocalWebservice.deploy_configuration\(\) gives"):
        local.update(deployment_config=AciWebservice.deploy_configuration())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_service_keeps_its_port_and_says_so(workspace: Workspace, trained: dict[str, Model], deploy: Deploy) -> None:
    port = free_port()
    service: Any = deploy("ported", [trained["linear"]], deployment_config=LocalWebservice.deploy_configuration(port))
    other = LocalWebservice.deploy_configuration(free_port())
    with pytest.raises(WebserviceException, match=f"listens on port {port} for as long as it lives"):
        service.update(deployment_config=other)
    with pytest.raises(UserErrorException, match=f"listens on port {port} for as long as it lives"):
        Model.deploy(workspace, "ported", [trained["linear"]], deployment_config=other, overwrite=True)
    service.update(models=[trained["support"]], deployment_config=LocalWebservice.deploy_configuration())
    service.wait_for_deployment()
    assert (service.port, service.models[0].name) == (port, "support")


def test_a_service_whose_port_was_taken_gets_another(trained: dict[str, Model], deploy: Deploy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = LocalWebservice.deploy_configuration(listener.getsockname()[1])
        with pytest.raises(WebserviceException, match="cannot be listened on"):
            deploy("port-taken", [trained["linear"]], deployment_config=config)
    port = free_port()
    again = LocalWebservice.deploy_configuration(port)
    service: Any = deploy("port-taken", [trained["linear"]], deployment_config=again, overwrite=True)
    assert service.port == port
    assert service.run(json.dumps(BODY))["predict"] == LABELS[:1].tolist()


def test_keys_that_come_with_an_overwritten_service_are_its_keys(trained: dict[str, Model], deploy: Deploy) -> None:
    deploy("again", [trained["linear"]], deployment_config=AksWebservice.deploy_configuration(num_replicas=1))
    config = AksWebservice.deploy_configuration(num_replicas=1, primary_key="the-new-primary-key")
    service = deploy("again", [trained["linear"]], deployment_config=config, overwrite=True)
    assert service.get_keys()[0] == "the-new-primary-key"
    uri = service.scoring_uri
    wait_until(lambda: post(uri, BODY, Authorization="Bearer the-new-primary-key")[0] == 200, "it lets in", 10)


def test_a_service_with_tokens_takes_no_keys_and_another_services_token_neither(
    trained: dict[str, Model], deploy: Deploy
) -> None:
    tokens = AksWebservice.deploy_configuration(token_auth_enabled=True, auth_enabled=False, num_replicas=1)
    keyed = AksWebservice.deploy_configuration(num_replicas=1)
    service = deploy("exclusive", [trained["linear"]], deployment_config=keyed)
    key, uri = service.get_keys()[0], service.scoring_uri
    other = deploy("other-tokens", [trained["linear"]], deployment_config=tokens)
    service.update(token_auth_enabled=True, auth_enabled=False)
    service.wait_for_deployment()
    wait_until(lambda: post(uri, BODY, Authorization="Bearer " + key)[0] == 401, "the key ends", 10)
    assert post(uri, BODY, Authorization="Bearer " + other.get_token()[0])[0] == 401
    assert post(uri, BODY, Authorization="Bearer " + service.get_token()[0])[0] == 200
    for call in (service.get_keys, lambda: service.regen_key("Primary")):
        with pytest.raises(WebserviceException, match="takes tokens and no keys"):
            call()
    # A token that is out can only be shut out with all others, for as long as the service takes keys.
    token = "Bearer " + service.get_token()[0]
    service.update(auth_enabled=True)
    wait_until(lambda: post(uri, BODY, Authorization=token)[0] == 401, "no token lets in", 10)
    service.update(token_auth_enabled=True, auth_enabled=False)
    wait_until(lambda: post(uri, BODY, Authorization=token)[0] == 200, "the same token lets in again", 10)


def test_labels_and_access_need_no_new_processes_and_outlive_an_update_that_fails(
    trained: dict[str, Model], deploy: Deploy, script_folder: Any
) -> None:
    service = deploy("labels", [trained["linear"]])
    service.add_tags({"team": "blue"})
    service.update(auth_enabled=True)
    assert (service._record.revision, service.auth_enabled) == (1, True)
    wait_until(lambda: post(service.scoring_uri, BODY)[0] == 401, "a key is needed", 10)
    broken = InferenceConfig("score.py", source_directory=script_folder(BROKEN), environment=here())
    service.update(inference_config=broken, tags={"team": "red"})
    with pytest.raises(WebserviceException, match="no such luck"):
        service.wait_for_deployment()
    assert (service.tags, service.auth_enabled) == ({"team": "blue"}, True)
    service.update(models=[trained["support"]])
    service.wait_for_deployment()
    service.add_tags({"since": "then"})
    service.rollback()
    service.wait_for_deployment()
    assert (service.tags, service.auth_enabled) == ({"team": "blue", "since": "then"}, True)
    assert service.models[0].name == "linear"
    assert service.run(json.dumps(BODY))["predict"] == LABELS[:1].tolist()


def test_a_service_of_a_model_that_is_gone_can_still_be_closed(
    workspace: Workspace, deploy: Deploy, script_folder: Any, tmp_path: Path
) -> None:
    (tmp_path / "weights.txt").write_text("1")
    model = Model.register(workspace, str(tmp_path / "weights.txt"), "goes-soon")
    config = InferenceConfig("score.py", source_directory=script_folder(ECHO), environment=here())
    service = deploy("closed", [model], config)
    model.delete()
    service.update(auth_enabled=True)
    wait_until(lambda: post(service.scoring_uri, BODY)[0] == 401, "a key is needed", 10)
    assert service.run('"still here"') == '"still here"'


def test_changes_at_the_same_time_lose_none(workspace: Workspace, trained: dict[str, Model], deploy: Deploy) -> None:
    deploy("crowded", [trained["linear"]])
    begun, is_over = threading.Semaphore(0), threading.Event()

    def describe(number: int) -> None:
        service: Any = Webservice(workspace, "crowded")
        count = 0
        while not is_over.is_set():
            count += 1
            service.update(description=f"the {count}th of {number}")
            begun.release()

    threads = [threading.Thread(target=describe, args=(one,)) for one in range(8)]
    for one in threads:
        one.start()
    service: Any = Webservice(workspace, "crowded")
    try:
        for name in ("support", "forest", "support"):
            for _ in range(10):
                begun.acquire()
            service.update(models=[trained[name]])
            for _ in range(10):
                begun.acquire()
            assert Webservice(workspace, "crowded").models[0].name == name
    finally:
        is_over.set()
        for one in threads:
            one.join()


def test_a_request_to_a_service_that_failed_is_told_why_at_once(
    workspace: Workspace, deploy: Deploy, script_folder: Any
) -> None:
    config = InferenceConfig("score.py", source_directory=script_folder(BROKEN), environment=here())
    with pytest.raises(WebserviceException, match="no such luck"):
        deploy("has-failed", [], config)
    began = time.monotonic()
    with pytest.raises(WebserviceException, match="no such luck"):
        Webservice(workspace, "has-failed").run("{}")
    assert time.monotonic() - began < 10


def test_v1s_other_names_work(trained: dict[str, Model], deploy: Deploy) -> None:
    service = deploy("v1-names", [trained["linear"]])
    assert service.run(input_data=json.dumps(BODY))["predict"] == LABELS[:1].tolist()
    with pytest.raises(WebserviceException, match="str or bytes"):
        service.run()


def test_what_is_looked_for_wrongly_is_told(workspace: Workspace, trained: dict[str, Model], deploy: Deploy) -> None:
    deploy("my-digits", [trained["linear"]])
    with pytest.raises(WebserviceException, match=r"'my-digit' does not exist.*Did you mean 'my-digits'"):
        Webservice(workspace, "my-digit")
    with pytest.raises(WebserviceException, match="compute_type is one of ACI, AKS, Local, not 'ASK'"):
        Webservice.list(workspace, compute_type="ASK")
    assert [one.name for one in Webservice.list(workspace, compute_type="aci")] == ["my-digits"]


def test_v1s_oldest_ways_say_what_they_take(workspace: Workspace, trained: dict[str, Model]) -> None:
    with pytest.raises(WebserviceException, match=r"ContainerImage.create\(...\) gives, not 'digits:1'"):
        Webservice.deploy_from_image(workspace, "oldest", "digits:1")
    with pytest.raises(WebserviceException, match=r"ContainerImage.image_configuration\(...\) gives, not None"):
        Webservice.deploy_from_model(workspace, "oldest", [trained["linear"]], None)
    assert ContainerImage.image_configuration("score.py").runtime == "python"


def test_where_v1_looked_an_image_up_a_sentence_says_what_to_call(workspace: Workspace, tmp_path: Path) -> None:
    looked_up: list[Callable[[], Any]] = [
        lambda: Image.list(workspace, model_name="linear"),
        lambda: ContainerImage.list(workspace),
        lambda: Image(workspace, "old"),
        lambda: ContainerImage(workspace, id="old:1"),
        lambda: workspace.images,
        lambda: Webservice.list(workspace, image_name="old"),
    ]
    for look_up in looked_up:
        with pytest.raises(WebserviceException, match=r"ContainerImage.create\(\).*Model.deploy.*Webservice.list"):
            look_up()


def package_folders() -> set[str]:
    return {one for one in os.listdir(tempfile.gettempdir()) if one.startswith("runyard-package-")}


def test_a_package_leaves_nothing_behind_but_what_is_saved(
    workspace: Workspace, trained: dict[str, Model], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = package_folders()
    package = Model.package(workspace, [trained["linear"]], generate_dockerfile=True, image_name="digits")
    package.wait_for_creation(show_output=True)
    assert "save('image') writes it, and docker build -t digits:1 image" in capsys.readouterr().out
    package.save(str(tmp_path / "image"))
    with pytest.raises(WebserviceException, match="already; save\\(\\) takes a new folder"):
        package.save(str(tmp_path / "image"))
    del package
    assert package_folders() <= before
    assert (tmp_path / "image" / "Dockerfile").exists()
    for given, said in (({"image_name": "Not A Name"}, "image_name"), ({"image_label": "!"}, "image_label")):
        with pytest.raises(WebserviceException, match=said):
            Model.package(workspace, [trained["linear"]], **given)
    with pytest.raises(UserErrorException, match="'linear' is none"):
        Model.package(workspace, ["linear"])
    assert package_folders() <= before


def test_a_profile_says_what_it_needs_and_what_failed(workspace: Workspace, trained: dict[str, Model]) -> None:
    for asked in (None, 5):
        with pytest.raises(UserErrorException, match=f"A profile needs requests: .*, not {asked}"):
            Model.profile(workspace, "needs", [trained["linear"]], None, asked)
    details = Model.profile(workspace, "fails", trained["linear"], None, input_data="{").get_details()
    assert (details["state"], details["successQueries"]) == ("Failed", 0)
    assert "the first: 400" in details["error"]
    assert "The body is not JSON" in details["error"]
    assert not [name for name in workspace.webservices if name.startswith("profile-")]


def test_an_expired_token_lets_nobody_in(workspace: Workspace, trained: dict[str, Model], deploy: Deploy) -> None:
    config = AksWebservice.deploy_configuration(token_auth_enabled=True, auth_enabled=False, num_replicas=2)
    service = deploy("expires", [trained["forest"]], deployment_config=config)
    token, refresh_after = service.get_token()
    expires_at = int(token.partition(".")[0])
    assert time.time() + 3600 < refresh_after.timestamp() < expires_at <= time.time() + 13 * 3600
    folder = Path(os.environ["RUNYARD_HOME"]) / "services" / service._record.id
    token_key = json.loads((folder / "wanted.json").read_text())["token_key"]
    for expiry, status in ((str(int(time.time()) + 60), 200), (str(int(time.time()) - 1), 401)):
        made = f"{expiry}.{sign_token(token_key, expiry)}"
        assert post(service.scoring_uri, BODY, Authorization="Bearer " + made)[0] == status


def test_a_local_service_that_was_found_reloads_lists_and_goes_elsewhere(
    workspace: Workspace, deploy: Deploy, script_folder: Any
) -> None:
    folder = script_folder(ECHO)
    config = InferenceConfig("score.py", source_directory=folder, environment=here())
    made: Any = deploy("local-one", [], config, LocalWebservice.deploy_configuration())
    deploy("no-local", [], config)
    assert [one.name for one in LocalWebservice.list(workspace)] == ["local-one"]
    found: Any = Webservice(workspace, "local-one")
    assert "answers from now on" in found.get_logs(raw=True)
    again = found.deploy_to_cloud("local-one-aci")
    try:
        again.wait_for_deployment()
        assert (again.compute_type, again.run('"there too"')) == ("ACI", '"there too"')
    finally:
        again.delete()
    os.remove(os.path.join(folder, "score.py"))
    with pytest.raises(WebserviceException, match=r"score.py' cannot be read: No such file"):
        made.reload()
    found.delete()
    assert found.state == "deleted"
    with pytest.raises(WebserviceException, match="WebserviceNotFound"):
        made.update_deployment_state(must_exist=True)
    made.update_deployment_state()
    assert made.state == "unknown"


def test_a_local_service_need_not_exist_and_is_deployed_by_its_update(
    workspace: Workspace, deploy: Deploy, script_folder: Any
) -> None:
    folder = script_folder(BROKEN)
    config = InferenceConfig("score.py", source_directory=folder, environment=here())
    with pytest.raises(WebserviceException, match="WebserviceNotFound"):
        LocalWebservice(workspace, "not-yet")
    made: Any = LocalWebservice(workspace, "not-yet", must_exist=False)
    assert (made.state, made.port, made.created_time) == ("unknown", None, None)
    assert made.serialize()["createdTime"] is None
    made.update_deployment_state()
    assert made.state == "unknown"
    with pytest.raises(WebserviceException, match="WebserviceNotFound"):
        made.run("1")
    try:
        with pytest.raises(WebserviceException, match="no such luck"):
            made.update(models=[], inference_config=config, wait=True)
        assert LocalWebservice.list(workspace) == []
        assert [one.state for one in LocalWebservice.list(workspace, all=True)] == ["failed"]
        script_folder(ECHO)
        made.update(inference_config=config)
        wait_until(lambda: [one.name for one in LocalWebservice.list(workspace)] == ["not-yet"], "it runs")
        assert made.run('"here"') == '"here"'
        again: Any = LocalWebservice(workspace, "not-yet", False)
        assert again.state == "running"
        assert "answers from now on" in again.get_logs(5000, True)
    finally:
        made.delete()
    with pytest.raises(TypeError, match="must_exists"):
        LocalWebservice(workspace, "not-yet", must_exists=False)


def test_what_v1_said_of_images_is_told_to_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notices, "_said", set())
    (tmp_path / "score.py").write_text("def run(data):\n    return 1\n")
    given = {"runtime": "python", "conda_file": "environment.yml", "source_directory": str(tmp_path)}
    InferenceConfig("score.py", **given)
    ContainerImage.image_configuration("score.py", conda_file="environment.yml")
    assert capsys.readouterr().err == ""
    InferenceConfig("score.py", base_image="mine:1", extra_docker_file_steps="more", **given)
    ContainerImage.image_configuration("score.py", docker_file="Dockerfile")
    said = capsys.readouterr().err.splitlines()
    assert [one.split("'")[1] for one in said] == ["base_image", "extra_docker_file_steps", "docker_file"]
    assert "a service runs in its environment's packages" in said[0]


def test_settings_that_would_protect_a_service_say_what_does_so_here(capsys: pytest.CaptureFixture[str]) -> None:
    AciWebservice.deploy_configuration(ssl_enabled=True, ssl_cname="here", vnet_name="ours", cmk_key_name="k")
    said = capsys.readouterr().err
    assert "'ssl_enabled' is kept and changes nothing here: a service speaks HTTPS where its server has" in said
    for name in ("ssl_cname", "vnet_name", "cmk_key_name"):
        assert f"'{name}' is kept" in said
    AciWebservice.deploy_configuration(cpu_cores=1, ssl_enabled=False, collect_model_data=False, location="here")
    assert capsys.readouterr().err == ""
    AksWebservice.deploy_configuration(collect_model_data=True)
    assert "'collect_model_data' is kept and changes nothing here: no data of requests" in capsys.readouterr().err


def test_what_a_model_asks_for_counts_for_its_script_too(
    trained: dict[str, Model], deploy: Deploy, script_folder: Callable[[str], str]
) -> None:
    config = InferenceConfig("score.py", source_directory=script_folder(ECHO), environment=here())
    settings = AciWebservice.deploy_configuration(memory_gb=0.25)
    service: Any = deploy("asks-for", [trained["linear"]], config, settings)
    needs = service.container_resource_requirements
    assert (needs.cpu, needs.memory_in_gb) == (1, 0.25)
