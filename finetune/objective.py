"""What fine-tuning optimises: multi-level alignment (MLA, paper section 3.3) by CMPM.

Three augmented images of a person meet the word, phrase and sentence level of one caption.
"""

from ivt_jax.data.texts import LEVELS
from ivt_jax.training.matching import matching_objective as make_objective

__all__ = ["VIEWS", "make_objective"]

VIEWS = {"joint": LEVELS, "separate": LEVELS, "sentence": ("sentence",)}  # by objective.levels
