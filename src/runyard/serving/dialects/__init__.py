"""The request shapes that callers know from other systems, a module each: a body becomes a Question and its answer.

What decodes raises BadRequestError, and so may ``encode``. ``question``, ``values``, ``table`` and ``swagger`` serve
them all. A new one gets its address in ``endpoint.py``, or its turn in ``decode_any``; FORMS there lists the tables of
numbers that ``table`` reads fast.
"""
