"""Pretraining on CC3M, SBU, COCO and Visual Genome: 4.73 M pairs, one caption an image.

Variants: "smoke" (three steps of the whole base model on drawn scenes, any computer), "official"
(what the official script sets; its loss, ITC + ITM + MLM, is not a value of this file), and the
sizes of base.py. The paper gives no pretraining recipe but 64 GPUs, so the default is ours.
"""

from configs import base

# Pairs in millions, counted in the official code: CC3M (train and val), SBU, COCO, VG. As weights
# they count pairs although an entry is an image (data.entries): an image with five captions is
# drawn more often, and an epoch is as many samples as the four datasets have images.
PAIRS = {"cc3m": 2.54, "sbu": 0.857, "coco": 0.567, "vg": 0.769}

VARIANTS = {
    "smoke": {
        "data.mixture": {"synthetic_scenes": 1.0},
        "model.dtype": "float32",  # bfloat16 is quick on few CPUs
        "schedule.warmup_epochs": 0.0,
        "training.batch_size": 4,
        "training.steps": 3,
        "training.log_steps": 1,
        "training.keep": 1,
    },
    # train_pretrain.py with configs/CUHK_PEDES/vit_base_uvt_bert.yml: its data, optimizer and
    # schedule. It cannot repeat that run: the loss here is CMPM, the script has ITC, ITM and MLM.
    "official": {
        "data.mixture": {
            name: PAIRS[name] for name in ("cc3m", "sbu", "vg")
        },  # no COCO in its list
        "data.entries": "captions",
        "masking.strategy": "none",
        "objective.negatives": "local",
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 0.005,
        "optimizer.weight_decay": 1e-4,
        "optimizer.decay": "all",
        "optimizer.bias_factor": 2.0,
        "optimizer.clip_norm": 0.0,
        "schedule.name": "official",
        "schedule.warmup_epochs": 5.0,
        "schedule.start_rate": 5e-5,
        "training.batch_size": 3072,  # 48 a process, 64 GPUs in the paper
        "training.epochs": 121.0,  # 0 to 120
        "training.eval_epochs": 1.0,
        "evaluation.dataset": "cuhk_pedes",
        "evaluation.select": "test",
        "evaluation.report": "",
    },
}


def get_config(variants: str = ""):
    """The recommended pretraining run, or a variant of it."""
    config = base.get_config()
    config.data.mixture = PAIRS
    config.data.text_length = 50  # tokens [code]
    config.data.entries = "images"
    config.objective.chunk = 1024  # columns; the whole matrix of a large batch fits no chip
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.05
    config.optimizer.decay = "matrices"
    config.optimizer.bias_factor = 1.0
    config.optimizer.clip_norm = 1.0
    config.schedule.warmup_epochs = 1.0
    config.schedule.start_rate = 1e-6
    config.training.batch_size = 4096
    config.training.epochs = 30.0
    config.training.eval_epochs = 0.0
    return base.apply_variants(config, variants, VARIANTS)
