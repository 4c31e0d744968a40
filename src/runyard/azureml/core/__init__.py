"""v1's azureml.core: the nouns that most scripts need, and the version that they print."""

import os

from runyard import __version__ as runyard_version
from runyard.azureml._lazy import lazy_names

if "AZUREML_RUN_ID" not in os.environ:
    # v1 notebooks call urllib.request after a bare `import urllib`: it worked because the SDK had loaded the submodule.
    # A submitted job never does that, and saves the 25 ms.
    import urllib.request as urllib_request  # noqa: F401

#: The v1 generation whose names and rules we follow, with Runyard's own version as its local part: scripts that ask
#: for "at least 1.15" get the answer that they need, and a printed version shows who answers.
VERSION = "1.62.0+runyard." + runyard_version
__version__ = VERSION

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "ComputeTarget": "runyard.sdk.compute_target:ComputeTarget",
        "ContainerRegistry": "runyard.sdk.container_registry:ContainerRegistry",
        "Dataset": "runyard.sdk.dataset:Dataset",
        "Datastore": "runyard.sdk.datastore:Datastore",
        "Environment": "runyard.sdk.environment:Environment",
        "Experiment": "runyard.sdk.experiment:Experiment",
        "Image": "runyard.sdk.container_image:Image",
        "Model": "runyard.sdk.model:Model",
        "Run": "runyard.sdk.run:Run",
        "RunConfiguration": "runyard.sdk.run_configuration:RunConfiguration",
        "ScriptRunConfig": "runyard.sdk.script_run_config:ScriptRunConfig",
        "Webservice": "runyard.sdk.webservice:Webservice",
        "Workspace": "runyard.sdk.workspace:Workspace",
    },
    planned=("Keyvault",),
)
