"""The v1 module tree: names only, each one an alias of what lives in runyard.sdk or runyard.errors."""
