"""Rows: tables, the engine with its one writer, and one module of operations a noun."""
