"""The embedded default: a shallow, narrow model on drawn people, minutes on two CPU cores.

Variants: "pretrain" (scenes without people), "finetune" (people). Two cores see some 54,000
and 46,000 pairs, hundreds of times fewer than a real run, so the demo departs from the defaults
where that pays: two blocks instead of twelve, position tables that start as sines and cosines,
mild masking, and MLA with noun phrases and one image for all texts of a sample.
"""

from ml_collections import ConfigDict

from configs import base

VARIANTS = {
    "pretrain": {
        "data.mixture": {"synthetic_scenes": 1.0},
        "data.sampler": "shuffle",
        "optimizer.learning_rate": 6e-4,
        "training.steps": 850,
    },
    "finetune": {
        "data.mixture": {"synthetic_people": 1.0},
        "data.levels": "phrase,phrase,phrase,sentence",
        "data.phrase_level": "nouns",
        "data.phrase_length": 8,
        "data.image_views": "one",
        "objective.levels": "separate",
        # A phrase fits several photos of a batch: with 1e-4 the loss would rather have it find none
        # of them, and with 1e-8 it learns no better than with 1e-6.
        "objective.epsilon": 1e-6,
        "optimizer.learning_rate": 5e-4,
        "schedule.warmup_epochs": 0.15,
        "training.steps": 720,
        "training.eval_epochs": 0.75,
        "evaluation.dataset": "synthetic_people",
        "evaluation.report": "",  # the demo scores test once, at its end
    },
}


def get_config(variants: str = "finetune") -> ConfigDict:
    """The demo's model and recipe with one of the two variants; ValueError without one."""
    config = base.get_config("tiny")
    config.model.update(
        image_size=(96, 48),
        patch_size=8,
        patch_stride=8,
        depth=2,
        heads=12,
        vocabulary_size=1024,
        max_text_positions=64,
        drop_path=0.0,
        text_dropout=0.0,
        kernel_deviation=0.05,
        position_init="sincos",
        dtype="float32",
        layers="unroll",
    )
    config.data.update(
        sampler="identity",
        captions_per_identity=2,
        text_length=48,
        pad=3,
        erase=0.0,
        cache_gib=0.5,
    )
    config.masking.update(image_ratio=0.1, text_ratio=0.1)
    config.optimizer.update(
        name="adamw", bias_factor=1.0, weight_decay=0.05, decay="matrices", clip_norm=1.0
    )
    config.schedule.update(start_rate=0.0, floor_rate=0.0, warmup_epochs=0.3)
    config.training.update(batch_size=64, log_steps=25, eval_epochs=0.0, save_epochs=2.0)
    if not set(variants.split(",")) & set(VARIANTS):
        raise ValueError(f'name a stage, ":pretrain" or ":finetune" (got {variants!r})')
    return base.apply_variants(config, variants, VARIANTS)
