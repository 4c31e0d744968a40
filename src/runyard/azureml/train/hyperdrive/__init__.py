"""Hyperparameter search comes in a later release: importing this package says so."""

from runyard.azureml._lazy import planned_error

raise planned_error(__name__)
