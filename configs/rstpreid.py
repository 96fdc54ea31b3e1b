"""Fine-tuning on RSTPReid; the best step is chosen on val and reported on test.

Variants: "official" (what train_rstp.py really sets: stride 16, one GPU with 48 pairs), "paper",
and the sizes of base.py.
"""

from configs import base, cuhk_pedes

VARIANTS = {
    "official": {
        **cuhk_pedes.VARIANTS["official"],
        "model.patch_stride": 16,
        "schedule.first_epoch": 0,
        "training.batch_size": 48,
        "training.epochs": 121.0,  # 0 to 120
    },
    "paper": cuhk_pedes.VARIANTS["paper"],
}


def get_config(variants: str = ""):
    """The recommended run; set `init.run` to start from a pretrained one."""
    config = cuhk_pedes.get_config()
    config.data.mixture = {"rstpreid": 1.0}
    config.evaluation.dataset = "rstpreid"
    return base.apply_variants(config, variants, VARIANTS)
