"""The estimators that install a framework: TensorFlow, PyTorch, Chainer and SKLearn."""

from typing import List, Optional

from runyard.sdk.estimator import Estimator
from runyard.sdk.estimator_environment import EnvironmentWish
from runyard.sdk.estimator_version import FrameworkVersion, default_version, find_version, supported_versions
from runyard.sdk.notices import say_once

#: Parameters that v1's TensorFlow estimator alone had.
_OF_TENSORFLOW = frozenset(("worker_count", "parameter_server_count"))


class _FrameworkEstimator(Estimator):
    FRAMEWORK_NAME = ""

    @classmethod
    def get_supported_versions(cls) -> List[str]:
        """What ``framework_version`` may be, oldest first."""
        return supported_versions(cls.FRAMEWORK_NAME)

    @property
    def framework_version(self) -> Optional[str]:
        """The version that is installed, as it was asked for; None where something else decides."""
        return self._version

    def _find_framework(self, version: Optional[str], wish: EnvironmentWish) -> Optional[FrameworkVersion]:
        self._version = version
        if wish.says_all:
            return None
        if version is None:
            self._version = default_version(self.FRAMEWORK_NAME)
            say_once(f"framework_version is not given: {self.FRAMEWORK_NAME} {self._version} is taken, as in v1.")
        return find_version(self.FRAMEWORK_NAME, self._version)


class TensorFlow(_FrameworkEstimator):
    """An estimator with TensorFlow; MpiConfiguration adds Horovod."""

    FRAMEWORK_NAME = "TensorFlow"
    DEFAULT_VERSION = default_version(FRAMEWORK_NAME)
    _BACKENDS = ("mpi", "ps")
    _LACKS = frozenset()


class PyTorch(_FrameworkEstimator):
    """An estimator with PyTorch; MpiConfiguration adds Horovod."""

    FRAMEWORK_NAME = "PyTorch"
    DEFAULT_VERSION = default_version(FRAMEWORK_NAME)
    _BACKENDS = ("mpi", "gloo", "nccl")
    _LACKS = _OF_TENSORFLOW


class Chainer(_FrameworkEstimator):
    """An estimator with Chainer; MpiConfiguration adds mpi4py, by which its processes meet."""

    FRAMEWORK_NAME = "Chainer"
    DEFAULT_VERSION = default_version(FRAMEWORK_NAME)
    _BACKENDS = ("mpi",)
    _LACKS = _OF_TENSORFLOW


class SKLearn(_FrameworkEstimator):
    """An estimator with scikit-learn, for one process."""

    FRAMEWORK_NAME = "SKLearn"
    DEFAULT_VERSION = default_version(FRAMEWORK_NAME)
    _LACKS = _OF_TENSORFLOW | {
        "node_count",
        "process_count_per_node",
        "distributed_backend",
        "distributed_training",
        "use_gpu",
        "custom_docker_base_image",
        "source_directory_data_store",
    }
