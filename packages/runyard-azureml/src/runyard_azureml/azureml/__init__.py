"""The bare `azureml` name: its modules are those of runyard.azureml, and a real azureml-core on the path comes first."""

from runyard.azureml import __path__ as __path__
