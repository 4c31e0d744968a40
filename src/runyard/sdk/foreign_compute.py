"""Azure's own services as v1 names them: each name is there, and each use of it says what takes its place here."""

from typing import Any, NoReturn

from runyard.errors import ComputeTargetException


class ForeignCompute:
    """A kind of compute target that only Azure has."""

    _instead = ""

    def __new__(cls, *_: Any, **__: Any) -> "ForeignCompute":
        """ComputeTargetException: there is none of it."""
        cls._refuse()

    @classmethod
    def provisioning_configuration(cls, *_: Any, **__: Any) -> NoReturn:
        """ComputeTargetException: there is none of it."""
        cls._refuse()

    @classmethod
    def attach_configuration(cls, *_: Any, **__: Any) -> NoReturn:
        """ComputeTargetException: there is none of it."""
        cls._refuse()

    @classmethod
    def create(cls, *_: Any, **__: Any) -> NoReturn:
        """ComputeTargetException: there is none of it."""
        cls._refuse()

    @classmethod
    def attach(cls, *_: Any, **__: Any) -> NoReturn:
        """ComputeTargetException: there is none of it."""
        cls._refuse()

    @classmethod
    def _refuse(cls) -> NoReturn:
        raise ComputeTargetException(f"ComputeTargetNotFound: {cls.__name__} is a service of Azure's; {cls._instead}.")


class AksCompute(ForeignCompute):
    """v1's Kubernetes cluster that serves models."""

    _instead = "runs go to a RayCompute or SlurmCompute, and Model.deploy serves models on the server's host"

    class ClusterPurpose:
        """What such a cluster was for."""

        FAST_PROD = "FastProd"
        DEV_TEST = "DevTest"


class KubernetesCompute(ForeignCompute):
    """v1's Kubernetes cluster that carries out runs."""

    _instead = "run Ray there and attach it as RayCompute"


class DsvmCompute(ForeignCompute):
    """v1's virtual machine with tools of data science."""

    _instead = "attach a machine of your own as RemoteCompute"


class BatchCompute(ForeignCompute):
    """v1's Azure Batch account."""

    _instead = "use AmlCompute, or attach a cluster as SlurmCompute"


class DatabricksCompute(ForeignCompute):
    """v1's Databricks workspace."""

    _instead = "use AmlCompute, or attach a cluster as RayCompute"


class HDInsightCompute(ForeignCompute):
    """v1's Spark cluster."""

    _instead = "use AmlCompute, or attach a cluster as RayCompute"


class SynapseCompute(ForeignCompute):
    """v1's Spark pool."""

    _instead = "use AmlCompute, or attach a cluster as RayCompute"


class AdlaCompute(ForeignCompute):
    """v1's Data Lake Analytics account."""

    _instead = "read its files by a Dataset, in a run on AmlCompute"


class DataFactoryCompute(ForeignCompute):
    """v1's Data Factory, which copies data."""

    _instead = "copy files by a datastore's upload and download"
