"""The bare `azureml` name: its modules are runyard.azureml's; a real azureml-core on the path comes first."""

from runyard.azureml import __path__ as __path__
