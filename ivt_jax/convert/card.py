"""The model card of an exported folder, written from what the run itself recorded."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ivt_jax.config import difference
from ivt_jax.retrieval.metrics import METRICS
from ivt_jax.validation import WEIGHT_FILES

# Values that name places on the machine of the training, which nobody else needs to know.
PLACES = ("data.directory", "data.vocabulary", "init.run", "init.step", "init.vit", "init.bert")
DATA = {
    "synthetic_people": "pedestrians that ivt_jax draws from a seed, several poses of each, with "
    "sentences made from their attributes; nobody was photographed",
    "synthetic_scenes": "scenes without people that ivt_jax draws from a seed, with sentences",
    "cuhk_pedes": "CUHK-PEDES, photos of pedestrians with two sentences each",
    "icfg_pedes": "ICFG-PEDES, photos of pedestrians with a sentence each",
    "rstpreid": "RSTPReid, photos of pedestrians with two sentences each",
    "cc3m": "Conceptual Captions 3M, images of the web with their alt texts",
    "sbu": "SBU captioned photos of Flickr",
    "coco": "COCO, photos with five sentences each",
    "vg": "Visual Genome, photos with phrases on their regions",
}
DRAWN = ("synthetic_people", "synthetic_scenes")
ENTRANCE = """---
language: en
library_name: transformers
pipeline_tag: feature-extraction
tags:
- text-based-person-retrieval
- image-text-retrieval
- ivt
---
"""
LIMITS = """## Intended use

Research on text-based person retrieval, and search in photos whose subjects consented or where the
law allows it: one's own albums, and archives or lost-person searches under human control.

## Misuse

Finding people by a description of their looks is a means of surveillance. Do not use this model

* to follow, identify or single out people who have not agreed to it, in public places or at work;
* to sort people by origin, religion, health, sex or any other protected trait;
* as evidence about a person, or to decide anything about one: a high rank says that a photo looks
  like a sentence, not that it shows the person meant.

Many laws restrict such systems (in the European Union the GDPR and the AI Act). Whoever deploys the
model answers for that.

## Limits

* Scores hold for the dataset and the protocol named above. Other cameras, clothes, seasons, places
  and ways of describing lower them, by how much is not known.
* It was not tested for equal quality over groups of people. Captions carry the views of those who
  wrote them.
* It always returns a ranking, also when the person is in no photo.
* It reads English, without case and accents, and one upright person a photo.
* The licence of weights follows from the data they were trained on. Several person datasets allow
  research only; state the licence that applies before passing the weights on.
"""


_DRAWN_ONLY = """**Its last training saw drawings, not photos.** It shows that the software works;
expect nothing of it on photos of real people.
"""
_PROTOCOL = """A right photo is any of the person described, the one described included.
R1, R5, R10: captions with a right photo among the first 1, 5, 10. mAP: mean average precision;
mAP_trapezoid is the form that the IVT paper reports, which is lower, and the two cannot be
compared. mINP: number of right photos over the rank of the last, mean over the captions."""


def model_card(
    name: str,
    *,
    config: ConfigDict,
    earlier: Sequence[ConfigDict],
    step: int,
    choice: str,
    parameters: int,
    dtype: str,
    results: Sequence[dict[str, Any]],
    usage: str,
    made_with: str,
) -> str:
    """The card as Markdown with the hub's header.

    Args:
      config: the run's; local paths are left out of the card.
      earlier: of the run that this one started from, the run before that, ..., as far as known.
      step: the checkpoint exported.
      choice: why this one, as in "the best on val".
      parameters: their number.
      dtype: what the exported model computes in.
      results: what `python -m ivt_jax evaluate` wrote about this step.
      usage: Markdown on how to use the folder.
      made_with: versions and, if known, the commit of this software.
    """
    lines = [line for line in difference(config) if not line.startswith(PLACES)]
    drawn = all(data in DRAWN for data in config.data.mixture)
    sections = [
        f"{ENTRANCE}\n# {name}\n",
        "IVT ([See Finer, See More](https://github.com/TencentYoutuResearch/PersonRetrieval-IVT), "
        "ECCVW 2022): one transformer that embeds person photos and sentences so that a sentence "
        "finds the photos it describes.\n",
        *([_DRAWN_ONLY] if drawn else []),
        f"{parameters:,} parameters, images of {config.model.image_size[0]} x "
        f"{config.model.image_size[1]} pixels (height x width), up to {config.data.text_length} "
        "tokens.\n",
        usage,
        "## Training\n",
        f"{_history([config, *earlier])}\nThis is step {step}, {choice}. Made with {made_with}.\n",
        "`training.json` holds the whole configuration. What differs from the defaults of ivt_jax "
        "(field: default -> here):\n",
        "```\n" + "\n".join(lines or ["nothing"]) + "\n```\n",
        "## Results\n",
        _results(results, config, dtype),
        LIMITS,
    ]
    return "\n".join(sections)


def read_results(run: Path, step: int) -> list[dict[str, Any]]:
    """What evaluations of this step recorded in RUN/results, in the order of file names."""
    found = []
    for file in sorted((run / "results").glob(f"*-step{step}.json")):
        found.append(json.loads(file.read_text("utf-8")))
    return found


def public_config(config: ConfigDict) -> str:
    """The run's configuration as JSON, without the places of PLACES."""
    table = config.to_dict()
    for field in PLACES:
        group, _, key = field.partition(".")
        table[group].pop(key, None)
    return json.dumps(table, indent=2, sort_keys=True) + "\n"


def _history(configs: Sequence[ConfigDict]) -> str:
    """One line a run, the newest first, and where the oldest began."""
    lines = []
    for config in configs:
        mixture = [
            f"{data} (weight {weight:g}{'; ' + DATA[data] if data in DATA else ''})"
            for data, weight in config.data.mixture.items()
        ]
        training = config.training
        length = f"{training.steps:,} steps" if training.steps else f"{training.epochs:g} epochs"
        lines.append(
            f"Trained for {length} of {training.batch_size} pairs on {', '.join(mixture)}, seed "
            f"{config.seed}. Started from {_start(config) if config is configs[-1] else 'that'}."
        )
    return "\n".join(f"{number}. {line}" for number, line in enumerate(reversed(lines), 1)) + "\n"


def _start(config: ConfigDict) -> str:
    if config.init.run:
        official = Path(config.init.run).suffix in WEIGHT_FILES
        return "weights in the official format" if official else "the weights of another run"
    kinds = [
        kind for kind, given in (("ViT", config.init.vit), ("BERT", config.init.bert)) if given
    ]
    return f"the weights of a {' and a '.join(kinds)}" if kinds else "random weights"


def _results(results: Sequence[dict[str, Any]], config: ConfigDict, dtype: str) -> str:
    if not results:
        return (
            "None recorded: this step was not evaluated before the export "
            "(`python -m ivt_jax evaluate --run=RUN`), so nothing is known of its quality.\n"
        )
    rows = [
        "| dataset | split | captions | photos | people | " + " | ".join(METRICS) + " |",
        "|---|---" + "|---:" * (3 + len(METRICS)) + "|",
    ]
    notes = []
    for one in results:
        counts = [f"{one[name]:,}" for name in ("queries", "gallery", "identities")]
        values = [f"{one['metrics'][metric]:.2f}" for metric in METRICS]
        rows.append(f"| {' | '.join([one['dataset'], one['split'], *counts, *values])} |")
        notes += [f"{one['dataset']} {one['split']}: {note}." for note in _notes(one, config)]
    scored = config.model.dtype
    if scored != dtype:
        notes.append(f"Scored in {scored}; this folder computes in {dtype}.")
    protocols = "; ".join(sorted({one["protocol"] for one in results}))
    notes = [f"Percent, one run. Protocol: {protocols}.", _PROTOCOL, *notes]
    return "\n".join([*rows, "", *notes, ""])


def _notes(result: dict[str, Any], config: ConfigDict) -> Iterator[str]:
    """What a reader of one row has to know."""
    if result["truncated"]:
        cut = f"{result['truncated']:,} of {result['queries']:,} captions"
        yield f"{cut} were longer than {config.data.text_length} tokens and cut"
    chosen = config.evaluation
    if (result["dataset"], result["split"]) == (chosen.dataset, chosen.select):
        yield "it also chose the best step, so these scores flatter"
    if result.get("unmatched", "error") != "error":
        rule = {"skip": "were left out", "count": "count as misses"}[result["unmatched"]]
        yield f"captions of people without a photo {rule}"
