"""From an environment as asked to an interpreter: spec, lock, build; standard library, and uv as a subprocess."""
