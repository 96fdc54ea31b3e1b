"""What pretraining optimises: CMPM of masked images and masked captions, one caption an image."""

from ivt_jax.training.matching import matching_objective as make_objective

__all__ = ["VIEWS", "make_objective"]

VIEWS = ("sentence",)
