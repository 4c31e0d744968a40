"""The terminal: one module of commands a noun, tables for people and ``--json`` for programs."""
