"""The model card of an exported folder, written from what the run itself recorded."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ivt_jax.config import difference
from ivt_jax.retrieval.metrics import METRICS

# Values that name places on the machine of the training, which nobody else needs to know.
PLACES = ("data.directory", "data.vocabulary", "init.run", "init.step", "init.vit", "init.bert")
ENTRANCE = """---
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


def model_card(
    name: str,
    *,
    config: ConfigDict,
    step: int,
    parameters: int,
    results: Sequence[dict[str, Any]],
    usage: str,
    made_with: str,
) -> str:
    """The card as Markdown with the hub's header.

    Args:
      config: the run's; local paths are left out of the card.
      step: the checkpoint exported.
      parameters: their number.
      results: what `python -m ivt_jax evaluate` wrote about this step.
      usage: Markdown on how to use the folder.
      made_with: versions and, if known, the commit of this software.
    """
    mixture = ", ".join(f"{data} (weight {w:g})" for data, w in config.data.mixture.items())
    lines = [line for line in difference(config) if not line.startswith(PLACES)]
    sections = [
        f"{ENTRANCE}\n# {name}\n",
        "IVT (See Finer, See More; ECCVW 2022): one transformer that embeds person photos and "
        "sentences so that a sentence finds the photos it describes.\n",
        f"{parameters:,} parameters, images of {config.model.image_size[0]} x "
        f"{config.model.image_size[1]} pixels, up to {config.data.text_length} tokens.\n",
        usage,
        "## Training\n",
        f"Data: {mixture}. Started from {_start(config)}; step {step}. Made with {made_with}.\n",
        "What differs from the defaults of ivt_jax (`configs/base.py`):\n",
        "```\n" + "\n".join(lines or ["nothing"]) + "\n```\n",
        "## Results\n",
        _results(results),
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


def _start(config: ConfigDict) -> str:
    if config.init.run:
        return "the weights of another model"
    kinds = [
        kind for kind, given in (("ViT", config.init.vit), ("BERT", config.init.bert)) if given
    ]
    return f"the weights of a {' and a '.join(kinds)}" if kinds else "random weights"


def _results(results: Sequence[dict[str, Any]]) -> str:
    if not results:
        return (
            "None recorded: this step was not evaluated before the export "
            "(`python -m ivt_jax evaluate --run=RUN`), so nothing is known of its quality.\n"
        )
    rows = [
        "| dataset | split | captions | photos | people | " + " | ".join(METRICS) + " |",
        "|---|---" + "|---:" * (3 + len(METRICS)) + "|",
    ]
    for one in results:
        counts = [f"{one[name]:,}" for name in ("queries", "gallery", "identities")]
        values = [f"{one['metrics'][metric]:.2f}" for metric in METRICS]
        rows.append(f"| {' | '.join([one['dataset'], one['split'], *counts, *values])} |")
    protocols = "; ".join(sorted({one["protocol"] for one in results}))
    return (
        "\n".join(rows) + f"\n\nPercent, one run. Protocol: {protocols}. mAP_trapezoid is the form "
        "that the paper reports; the two forms of mAP cannot be compared.\n"
    )
