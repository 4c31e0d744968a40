"""What runs beside a model: loads it in its own environment and answers for it. Standard library and the framework."""
