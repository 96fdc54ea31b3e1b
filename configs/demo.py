"""The embedded default: a shallow tiny model on drawn people, minutes on two CPU cores.

Variants: "pretrain" (scenes without people), "finetune" (people).
"""

from ml_collections import ConfigDict

from configs import base

VARIANTS = {
    "pretrain": {
        "training.steps": 400,
        "training.batch_size": 64,
        "data.entries": "images",
        "evaluation.dataset": "",
    },
    "finetune": {
        "training.steps": 400,
        "training.batch_size": 32,
        "data.sampler": "identity",
        "data.captions_per_identity": 2,
        "evaluation.dataset": "synthetic_people",
    },
}


def get_config(variants: str = "finetune") -> ConfigDict:
    """The demo's model and recipe with one of the two variants."""
    config = base.get_config("tiny")
    config.model.update(
        image_size=(96, 48),
        patch_size=12,
        patch_stride=12,
        width=128,
        depth=4,
        heads=4,
        vocabulary_size=1024,
        max_text_positions=64,
        drop_path=0.0,
        dtype="float32",
        layers="unroll",
    )
    config.data.update(text_length=48, pad=4, erase=0.0)
    config.optimizer.update(
        name="adamw",
        learning_rate=1e-3,
        bias_factor=1.0,
        weight_decay=0.05,
        decay="matrices",
        clip_norm=1.0,
    )
    config.schedule.update(start_rate=0.0, floor_rate=0.0, warmup_epochs=1.0)
    config.training.update(eval_epochs=0.0, save_epochs=0.0)
    name = "synthetic_scenes" if "pretrain" in variants else "synthetic_people"
    config.data.mixture = ConfigDict({name: 1.0})
    return base.apply_variants(config, variants, VARIANTS)
