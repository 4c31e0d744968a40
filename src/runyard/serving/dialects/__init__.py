"""The request shapes that callers of other systems know: each decodes to tensors and encodes what comes back."""
