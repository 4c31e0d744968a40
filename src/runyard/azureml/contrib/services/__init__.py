"""v1's azureml.contrib.services: what an entry script uses that answers raw requests."""
