"""What makes two plans the same."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def plans_digest(plans: Mapping[str, Any]) -> str:
    """Return the SHA-256 of nnU-Net plans without the name of the dataset: equal plans, equal digest."""
    content = {key: value for key, value in plans.items() if key != "dataset_name"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
