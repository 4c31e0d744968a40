"""v1's azureml.contrib: previews that scripts name."""
