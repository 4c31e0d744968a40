"""v1's azureml.train.dnn."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "Chainer": "runyard.sdk.estimator_framework:Chainer",
        "Gloo": "runyard.sdk.estimator_distribution:Gloo",
        "Mpi": "runyard.sdk.estimator_distribution:Mpi",
        "Nccl": "runyard.sdk.estimator_distribution:Nccl",
        "ParameterServer": "runyard.sdk.estimator_distribution:ParameterServer",
        "PyTorch": "runyard.sdk.estimator_framework:PyTorch",
        "TensorFlow": "runyard.sdk.estimator_framework:TensorFlow",
    },
)
