"""v1's azureml.train: estimators. Hyperparameter search comes in a later release, and importing it says so."""
