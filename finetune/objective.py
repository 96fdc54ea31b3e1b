"""What fine-tuning optimises: multi-level alignment (MLA, paper section 3.3) by CMPM.

Three augmented images of a person meet the word, phrase and sentence level of one caption.
"""

import functools

from ivt_jax.training.matching import matching_objective

VIEWS = ("word", "phrase", "sentence")
make_objective = functools.partial(matching_objective, views=VIEWS)
