"""Runyard: the open, self-hosted system behind the Azure Machine Learning SDK v1 workflow."""

__version__ = "0.1.0"
