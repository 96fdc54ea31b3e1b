"""Every key of every run, once. A run's own file changes values and adds none.

Each comment gives the meaning, the unit or choices, and the source where there is one:
[paper] "See Finer, See More" (ECCVW 2022), [code] its official implementation.
Text after a colon in `--config=file.py:a,b` names variants of the file, applied from left to right.
"""

from ml_collections import ConfigDict

# Sizes of the encoder; `base` is ViT-B and BERT-base [paper], the others follow DeiT.
PRESETS = {
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "small": {"width": 384, "depth": 12, "heads": 6},
    "base": {"width": 768, "depth": 12, "heads": 12},
}


def get_config(variants: str = "") -> ConfigDict:
    """The base model with our recommended defaults; variants are the names in PRESETS."""
    return apply_variants(_defaults(), variants, {})


def apply_variants(config: ConfigDict, variants: str, known: dict[str, dict]) -> ConfigDict:
    """Applies comma-separated variants, dotted field -> value, from `known` or PRESETS."""
    presets = {
        name: {f"model.{key}": value for key, value in sizes.items()}
        for name, sizes in PRESETS.items()
    }
    known = presets | known
    for name in filter(None, variants.split(",")):
        if name not in known:
            raise ValueError(f"unknown config variant {name!r}; this file knows {sorted(known)}")
        config.update_from_flattened_dict(known[name])
    return config


def _defaults() -> ConfigDict:
    config = ConfigDict()
    config.seed = 1234  # of parameters, order, augmentation and masking [code]; not of drawn data

    # The unified visual-textual transformer.
    model = config.model = ConfigDict()
    model.image_size = (384, 128)  # height, width in pixels [paper]
    model.patch_size = 16  # pixels [paper]
    model.patch_stride = 16  # pixels; 12 = overlapping, the official CUHK and ICFG scripts [code]
    model.width = 768  # size of a token
    model.depth = 12  # blocks
    model.heads = 12  # attention heads; divides width
    model.mlp_ratio = 4  # hidden size of each MLP over width
    model.vocabulary_size = 30522  # rows of the word table; at least the tokenizer's vocabulary
    model.max_text_positions = 512  # rows of the text position table, in tokens [code]
    model.drop_path = 0.1  # highest rate of stochastic depth, linear over the blocks [code]
    model.text_dropout = 0.1  # dropout after the text embeddings [code]
    model.kernel_deviation = 0.02  # of random kernels [code]; narrow models from scratch need more
    model.position_init = "normal"  # tables start as "normal" noise [code] | "sincos" of the place
    model.dtype = "bfloat16"  # of the computation: "bfloat16" | "float32"; parameters are float32
    model.attention = "auto"  # cuDNN's kernel on NVIDIA in bfloat16, else XLA's | "xla" everywhere
    model.layers = "scan"  # "scan": compiles fast, suits TPU | "unroll": faster on GPU and CPU
    model.remat = "none"  # recomputed in the backward pass: "none" | "block"

    # What is read, and how it becomes batches.
    data = config.data = ConfigDict()
    data.directory = "data"  # folder that `python -m ivt_jax prepare` wrote
    data.mixture = ConfigDict({"synthetic_people": 1.0}, convert_dict=False)  # dataset -> weight
    data.vocabulary = ""  # WordPiece vocab.txt; "" = the one stored with the (first) dataset
    data.text_length = 100  # tokens, static; longer texts are cut; [code] says 100, never cuts
    data.word_length = 0  # tokens of MLA's word level; shorter is faster; 0 = text_length
    data.phrase_length = 0  # tokens of MLA's phrase level; 0 = text_length
    data.separator = "none"  # after the last word: "none" [code] | "sep" ([SEP], the paper's Eq. 2)
    data.entries = "captions"  # an epoch passes over "captions" [code] | "images", one caption each
    data.sampler = "shuffle"  # "shuffle" | "identity": captions_per_identity entries of each person
    data.captions_per_identity = 4  # used by the identity sampler [code]
    data.decode = "exact"  # "exact" [code] | "scaled": large JPEGs reduced in decoding; 3x as fast
    data.resize = "bicubic"  # filter of the training resize: "bicubic" [code] | "bilinear"
    data.pad = 10  # black pixels on each side before the random crop [code]
    data.flip = 0.5  # probability of a horizontal flip [code]
    data.erase = 0.5  # probability of random erasing with noise; not in the paper [code]
    data.levels = "word,phrase,sentence"  # MLA: texts of a sample; a level may come several times
    data.word_level = "words"  # MLA: nouns and adjectives [paper] | "official": att, pieces [code]
    data.phrase_level = "pieces"  # MLA: comma pieces [code] | "nouns": noun phrases, "red coat"
    data.image_views = "level"  # MLA: an augmented image for each text [code] | "one" for all
    data.workers = 0  # processes that read and augment; 0 = threads of the main process
    data.threads = 2  # reading threads in each process
    data.prefetch = 4  # batches kept ready by each process
    data.worker_deadline = 120.0  # seconds a batch may take before its workers are replaced
    data.cache_gib = 0.0  # GiB of decoded images kept in memory, shared out among workers; 0 = none

    # Bidirectional mask modelling (BMM): which tokens leave before the blocks.
    masking = config.masking = ConfigDict()
    masking.strategy = "drop"  # "drop": a fixed share | "official": random count <= share | "none"
    masking.image_ratio = 0.3  # share of patches [paper Fig. 5]; 0.2 in the code
    masking.text_ratio = 0.3  # share of a caption's real tokens [paper Fig. 5]; 0.2 in the code
    masking.draws = "sample"  # one draw for each "sample" | one for the whole "batch" [code]

    # Cross-modal projection matching (CMPM).
    objective = config.objective = ConfigDict()
    objective.logits = "projection"  # "projection": other side normalised [code] | "dot" [Eq. 6]
    objective.target_norm = "l2"  # of the target rows: "l2" [code] | "sum" [paper Eq. 6]
    objective.epsilon = 1e-8  # inside the logarithm of the target [code]
    objective.negatives = "global"  # the whole batch | "local": each device its own share [code]
    objective.chunk = 0  # columns compared at once, rows split over devices; 0 = (B, B) on each
    objective.levels = "joint"  # fine-tuning: one matrix [code] | "separate" | "sentence": alone

    optimizer = config.optimizer = ConfigDict()
    optimizer.name = "sgd"  # "sgd" [paper] | "adamw"
    optimizer.learning_rate = 0.005  # peak [paper]
    optimizer.bias_factor = 2.0  # learning-rate factor of every bias [code]
    optimizer.weight_decay = 1e-4  # sgd: added to the gradient [paper]; adamw: decoupled
    optimizer.decay = "all"  # what decays: "all" [code] | "matrices": no bias, norm or table
    optimizer.momentum = 0.9  # of sgd [code]
    optimizer.beta1 = 0.9  # of adamw
    optimizer.beta2 = 0.98  # of adamw
    optimizer.epsilon = 1e-8  # of adamw
    optimizer.clip_norm = 0.0  # global gradient norm limit; 0 = no clipping [code]

    schedule = config.schedule = ConfigDict()
    schedule.name = "cosine"  # "official": per epoch [code] | "cosine" | "constant"; all warm up
    schedule.warmup_epochs = 5.0  # linear from start_rate to the peak [code]
    schedule.start_rate = 5e-5  # learning rate at the first step [code]
    schedule.floor_rate = 1e-5  # learning rate at the end [code]
    schedule.first_epoch = 0  # of "official": number of the first epoch, 1 on CUHK-PEDES [code]

    training = config.training = ConfigDict()
    training.batch_size = 112  # pairs in a step over all devices and accumulation [paper: 4 x 28]
    training.accumulate = 1  # micro-batches a step, one after the other: less memory
    training.accumulate_negatives = "all"  # of the whole batch, +1 forward pass | "micro": its own
    training.epochs = 120.0  # passes over all entries of the mixture [code]; ignored if steps > 0
    training.steps = 0  # steps of the whole run; 0 = from epochs
    training.log_steps = 20  # steps between two lines of metrics
    training.eval_epochs = 1.0  # epochs between two evaluations; 0 = only at the end
    training.save_epochs = 1.0  # epochs between two checkpoints; 0 = at evaluations and the end
    training.keep = 2  # newest checkpoints kept, besides the best
    training.skip_spikes = 0.0  # deviations above the mean at which a step is skipped; 0 = never, 6
    training.spike_window = 128  # steps over which that mean and deviation are taken
    training.skip_limit = 10  # skipped steps in a row that go back to a checkpoint
    training.rollbacks = 2  # times a run goes back to one checkpoint before it stops (exit code 3)
    training.replica_steps = 1000  # steps between two comparisons of the devices' copies; 0 = never
    training.changed_config = "refuse"  # a resume with other values: "refuse" | "accept" (printed)
    training.profile_steps = (0, 0)  # first, last step recorded into workdir/profile; (0, 0) = none
    training.stop_after = 0  # steps after which this process saves and stops; 0 = run to the end

    # Retrieval during training: the best step by R1 + mAP on `select` is kept.
    evaluation = config.evaluation = ConfigDict()
    evaluation.dataset = ""  # dataset with identities; "" = no retrieval during training
    evaluation.select = "val"  # split that chooses the best step; the official code takes "test"
    evaluation.report = "test"  # split scored beside it and never used for choosing; "" = none
    evaluation.batch_size = 64  # images or captions encoded at once, over all devices

    # A run that makes no progress dumps the stacks of its threads and leaves (exit code 75).
    watchdog = config.watchdog = ConfigDict()
    watchdog.startup = 1800.0  # seconds until the first step is done, or for a save; 0 = any
    watchdog.step = 120.0  # seconds for a step, or 10 median steps if that is longer; 0 = any
    watchdog.step_limit = 900.0  # seconds for a step whatever the median is; 0 = any
    watchdog.data = 600.0  # seconds for a batch, or for a process to wait for one; 0 = any

    mesh = config.mesh = ConfigDict()
    mesh.data = -1  # devices that share the batch; -1 = all that are left
    mesh.fsdp = 1  # devices that also share the parameters; 1 = every device holds them all
    mesh.optimizer = "params"  # its state lies as "params" | "split" over all devices (ZeRO-1)

    init = config.init = ConfigDict()
    init.run = ""  # run folder, or official IVT weights (.safetensors, .pth); "" = none
    init.step = -1  # the run folder's step; -1 = its best, else its newest
    init.vit = ""  # ViT for all that images use: folder, file or hub name [paper]; "" = random
    init.bert = ""  # BERT for text embeddings and text MLPs: the same [paper]; "" = random
    init.strict = True  # False: weights that do not fit stay random, each of them reported
    return config
