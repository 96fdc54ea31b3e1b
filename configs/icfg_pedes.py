"""Fine-tuning on ICFG-PEDES, which has no val split: the last step is scored on test, once.

Variants: "official" (what train_icfg_gpu.py really sets: the best of 121 scores on test), "paper",
and the sizes of base.py.
"""

from configs import base, cuhk_pedes

VARIANTS = {
    "official": {
        **cuhk_pedes.VARIANTS["official"],
        "schedule.first_epoch": 0,
        "training.epochs": 121.0,  # 0 to 120
        "training.eval_epochs": 1.0,
    },
    "paper": cuhk_pedes.VARIANTS["paper"],
}


def get_config(variants: str = ""):
    """The recommended run; set `init.run` to start from a pretrained one."""
    config = cuhk_pedes.get_config()
    config.data.mixture = {"icfg_pedes": 1.0}
    config.evaluation.dataset = "icfg_pedes"
    config.evaluation.select = "test"
    config.evaluation.report = ""
    config.training.eval_epochs = 0.0
    return base.apply_variants(config, variants, VARIANTS)
