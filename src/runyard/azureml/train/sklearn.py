"""v1's azureml.train.sklearn."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "SKLearn": "runyard.sdk.estimator_framework:SKLearn",
    },
)
