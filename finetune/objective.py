"""What fine-tuning optimises: multi-level alignment (MLA, paper section 3.3) by CMPM.

Augmented images of a person meet the word, phrase and sentence level of one caption.
"""

from ml_collections import ConfigDict

from ivt_jax.training.matching import matching_objective as make_objective

__all__ = ["make_objective", "views_of"]


def views_of(config: ConfigDict) -> tuple[str, ...]:
    """The text levels of a sample, as `data.pipeline.ViewOptions.views` takes them."""
    if config.objective.levels == "sentence":
        return ("sentence",)
    return tuple(config.data.levels.split(","))
