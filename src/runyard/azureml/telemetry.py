"""v1's azureml.telemetry. Runyard sends no telemetry, so there is nothing to switch."""


def set_diagnostics_collection(send_diagnostics: bool = True, verbosity: object = None) -> None:
    """Accept v1's call and do nothing, whatever is asked for."""
