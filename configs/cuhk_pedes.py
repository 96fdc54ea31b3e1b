"""Fine-tuning on CUHK-PEDES; the best step is chosen on val and reported on test.

Variants: "official" (what train_cuhkpedes_gpu.py really sets, command-line defaults included),
"paper" (equations and text of the paper; values it does not give are the code's), and the sizes
of base.py. It is not known which of the two made the published numbers.
"""

from configs import base

VARIANTS = {
    "official": {
        "model.patch_stride": 12,
        "data.word_level": "official",
        "masking.strategy": "official",
        "masking.image_ratio": 0.2,
        "masking.text_ratio": 0.2,
        "masking.draws": "batch",
        "objective.negatives": "local",  # with 4 GPUs: training.batch_size=112
        "schedule.name": "official",
        "schedule.first_epoch": 1,
        "training.batch_size": 28,
        "evaluation.select": "test",
        "evaluation.report": "",
    },
    "paper": {
        "data.separator": "sep",  # Eq. 2
        "data.erase": 0.0,  # only flips and crops are named
        "objective.logits": "dot",  # Eq. 6
        "objective.target_norm": "sum",  # Eq. 6
        "objective.levels": "separate",  # Fig. 2 shows one loss a level
    },
}


def get_config(variants: str = ""):
    """The recommended run; set `init.run` to start from a pretrained one."""
    config = base.get_config()
    config.data.mixture = {"cuhk_pedes": 1.0}
    config.data.sampler = "identity"
    config.evaluation.dataset = "cuhk_pedes"
    return base.apply_variants(config, variants, VARIANTS)
