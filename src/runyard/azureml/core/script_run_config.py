"""v1's azureml.core.script_run_config."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "ScriptRunConfig": "runyard.sdk.script_run_config:ScriptRunConfig",
    },
)
