"""Labels: the tags, properties and description of a dataset or a model."""

from typing import Dict, Optional, Tuple

from runyard.protocol.record import record


@record
class LabelChange:
    """A change of an asset's labels; None leaves a field as it is."""

    description: Optional[str] = None
    tags: Optional[Dict[str, str]] = None
    remove_tags: Tuple[str, ...] = ()
    properties: Optional[Dict[str, str]] = None
