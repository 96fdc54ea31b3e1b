"""The embedded benchmark: drawn pedestrians and scenes with captions, made from a seed."""

from ivt_jax.data.synthetic.oracle import ceiling, oracle_scores
from ivt_jax.data.synthetic.records import people_records, scene_records, vocabulary
from ivt_jax.data.synthetic.sheet import contact_sheet

__all__ = [
    "ceiling",
    "contact_sheet",
    "oracle_scores",
    "people_records",
    "scene_records",
    "vocabulary",
]
