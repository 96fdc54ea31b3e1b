"""What pretraining optimises: CMPM of masked images and masked captions, one caption an image."""

import functools

from ivt_jax.training.matching import matching_objective

VIEWS = ("sentence",)
make_objective = functools.partial(matching_objective, views=VIEWS)
