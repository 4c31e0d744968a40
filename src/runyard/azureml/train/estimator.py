"""v1's azureml.train.estimator."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "Estimator": "runyard.sdk.estimator:Estimator",
        "Gloo": "runyard.sdk.estimator_distribution:Gloo",
        "Mpi": "runyard.sdk.estimator_distribution:Mpi",
        "Nccl": "runyard.sdk.estimator_distribution:Nccl",
        "ParameterServer": "runyard.sdk.estimator_distribution:ParameterServer",
    },
)
