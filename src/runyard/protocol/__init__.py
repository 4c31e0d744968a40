"""Frozen typed data that crosses a floor or the wire; pure, no I/O."""
