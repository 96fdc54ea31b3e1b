"""Arithmetic and memory traffic of one training step, counted from the model, by component.

A compiler's own count cannot serve: it counts the body of a scan over layers once.
"""

import collections
import dataclasses
from collections.abc import Iterator

from ivt_jax.model.ivt import IVTConfig

_FLOAT = 4  # bytes of a parameter, a gradient and a moment
# Bytes a parameter: both read parameter, gradient and moments and write all but the gradient;
# the gradient is read once more for its norm. FLOPs: with weight decay, as optax computes them.
OPTIMIZERS = {"sgd": {"bytes": 24, "flops": 8}, "adamw": {"bytes": 32, "flops": 18}}
# Operations on an element, forward and backward, as XLA counts them; erf is a polynomial there.
_NORM, _GELU, _SOFTMAX = (8, 13), (67, 9), (6, 6)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one component does in one pass of a step.

    Attributes:
      flops: of matrix products, 2 a multiply-add.
      elementwise: other operations, an estimate.
      bytes: what crosses the memory. Of a product both operands and the result, each once, in the
        dtype of the computation; of a norm, GELU, softmax or residual what it reads and writes
        when it is computed apart. A kernel that fuses two of them moves less.
    """

    flops: float = 0.0
    elementwise: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.flops + other.flops,
            self.elementwise + other.elementwise,
            self.bytes + other.bytes,
        )

    def __mul__(self, factor: float) -> "Cost":
        return Cost(self.flops * factor, self.elementwise * factor, self.bytes * factor)


@dataclasses.dataclass(frozen=True)
class Component:
    """Forward and backward cost of a component over all devices, each pass once."""

    forward: Cost = Cost()
    backward: Cost = Cost()

    @property
    def total(self) -> Cost:
        """Both passes."""
        return self.forward + self.backward

    def __add__(self, other: "Component") -> "Component":
        return Component(self.forward + other.forward, self.backward + other.backward)


@dataclasses.dataclass(frozen=True)
class StepFlops:
    """FLOPs of a step over all devices, of matrix products alone."""

    model: float  # forward and backward, each once: what MFU is measured by
    executed: float  # with what is computed again to save memory
    once: float  # executed, with one block of a scanned stack and one micro-batch


@dataclasses.dataclass(frozen=True)
class Work:
    """What a training run asks of the devices; the count is that of the tokens really there.

    Padding, and tokens that are hidden but computed, are waste and not work, so that a step which
    avoids them has the same count and a higher utilisation.
    """

    model: IVTConfig
    batch_size: int
    views: int  # texts of a sample
    masking: dict  # `config.masking`
    images: int = 0  # of a sample; 0 = one for each text

    def flops(self, text_tokens: float) -> float:
        """FLOPs of a step whose texts have so many real tokens on average."""
        strategy = self.masking["strategy"]
        image = kept(self.model.image_tokens, strategy, self.masking["image_ratio"])
        text = kept(text_tokens, strategy, self.masking["text_ratio"])
        return step_flops(
            self.model,
            batch_size=self.batch_size,
            views=self.views,
            images=self.images,
            image_tokens=image,
            text_tokens=text,
        ).model


def kept(tokens: float, strategy: str, ratio: float) -> float:
    """How many of `tokens` masking leaves on average, as the model drops or hides them."""
    if strategy == "none":
        return tokens
    return tokens - (int(ratio * (tokens - 1)) if strategy == "drop" else int(ratio * tokens) / 2)


def step_costs(
    config: IVTConfig,
    *,
    batch_size: int,
    views: int,
    image_tokens: float,
    text_tokens: float | tuple[float, ...],
    images: int = 0,
    optimizer: str = "sgd",
    parameters: int = 0,
) -> dict[str, Component]:
    """Costs of a step on `batch_size` samples of so many `images` and texts, by component.

    Args:
      views: texts of a sample; `images`: its image views, 0 = one for each text.
      image_tokens, text_tokens: what the blocks see of a sample, after masking; of the texts one
        number, or one for each view where each has a length of its own.
      optimizer: a key of OPTIMIZERS; `parameters`: how many it updates, 0 = no update.

    Raises ValueError where text_tokens do not suit the views.
    """
    lengths = text_tokens if isinstance(text_tokens, tuple) else (text_tokens,) * views
    if len(lengths) != views:
        raise ValueError(f"{len(lengths)} text lengths for {views} views: each view has one")
    size = 2 if config.dtype == "bfloat16" else 4
    images = images or views
    passes = [("image", batch_size * images, image_tokens)]
    passes += [("text", batch_size * n, t) for t, n in collections.Counter(lengths).items()]
    found: dict[str, Component] = collections.defaultdict(Component)
    found["patches"] = _patches(config, batch_size * images, size)
    found["words"] = _words(config, batch_size * sum(lengths), size)
    for layer in range(config.depth):
        for modality, samples, tokens in passes:
            for name, component in _block(config, modality, samples, tokens, layer, size):
                found[name] += component
    rows = batch_size * views
    found["matching"] = _product(rows, config.width, rows, _FLOAT)
    if parameters:
        per = OPTIMIZERS[optimizer]
        found["optimizer"] = Component(
            Cost(elementwise=per["flops"] * parameters, bytes=per["bytes"] * parameters)
        )
    return dict(found)


def step_flops(
    config: IVTConfig,
    *,
    batch_size: int,
    views: int,
    image_tokens: float,
    text_tokens: float | tuple[float, ...],
    images: int = 0,
    accumulate: int = 1,
    accumulate_negatives: str = "all",
) -> StepFlops:
    """FLOPs of the products of a step; the arguments are those of `step_costs`.

    accumulate: micro-batches; with `accumulate_negatives` "all" each is encoded twice.
    """
    costs = step_costs(
        config,
        batch_size=batch_size,
        views=views,
        images=images,
        image_tokens=image_tokens,
        text_tokens=text_tokens,
    )
    twice = accumulate > 1 and accumulate_negatives == "all"
    again = (config.remat == "block") + twice
    patches, loss = costs["patches"], costs["matching"].total.flops
    blocks = [component for name, component in costs.items() if name not in ("patches", "matching")]
    forward = sum(component.forward.flops for component in blocks)
    model = patches.total.flops + loss + sum(component.total.flops for component in blocks)
    executed = model + again * forward + twice * patches.forward.flops
    stack = forward * (3 + again)
    body = stack / config.depth if config.layers == "scan" else stack
    once = loss + (executed - loss - stack + body) / accumulate
    return StepFlops(model=model, executed=executed, once=once)


def _block(
    config: IVTConfig, modality: str, samples: int, tokens: float, layer: int, size: int
) -> Iterator[tuple[str, Component]]:
    """One block on samples of so many tokens; the last unrolled one makes the class token alone."""
    width, hidden = config.width, config.width * config.mlp_ratio
    alone = config.layers == "unroll" and layer == config.depth - 1
    queries = 1 if alone else tokens
    rows, kept = samples * tokens, samples * queries  # read by the block, left by it
    if alone:
        yield "qkv", _product(kept, width, width, size)
        yield "qkv", _product(rows, width, 2 * width, size)
    else:
        yield "qkv", _product(rows, width, 3 * width, size)
    groups, part = samples * config.heads, width // config.heads
    yield "attention", _product(queries, part, tokens, size, groups=groups)
    yield "attention", _product(queries, tokens, part, size, groups=groups)
    yield "output", _product(kept, width, width, size)
    yield f"{modality} MLP", _product(kept, width, hidden, size)
    yield f"{modality} MLP", _product(kept, hidden, width, size)
    yield "norms", _each(rows * width + kept * width, _NORM, size)
    yield "softmax", _each(groups * queries * tokens, _SOFTMAX, size)
    yield "GELU", _each(kept * hidden, _GELU, size)
    biases = 2 * rows * width + kept * (3 * width + hidden)
    residuals = Cost(elementwise=2 * kept * width, bytes=6 * kept * width * size)
    added = Cost(elementwise=biases)
    yield "residuals", Component(residuals + added, residuals + added)


def _product(m: float, k: float, n: float, size: int, *, groups: int = 1) -> Component:
    """(m, k) times (k, n), `groups` times; its backward pass is two such products."""
    cost = Cost(flops=2.0 * m * k * n, bytes=(m * k + k * n + m * n) * size) * groups
    return Component(cost, cost * 2)


def _each(elements: float, operations: tuple[int, int], size: int) -> Component:
    """A function of each element: read and written once; backward reads two and writes one."""
    forward, backward = (Cost(elementwise=elements * count) for count in operations)
    moved = Cost(bytes=elements * size)
    return Component(forward + moved * 2, backward + moved * 3)


def _patches(config: IVTConfig, samples: int, size: int) -> Component:
    """The embedding of patches; pixels need no gradient."""
    rows, columns = config.grid
    pixels = config.patch_size**2 * 3
    product = _product(samples * rows * columns, pixels, config.width, size).forward
    return Component(product, product)


def _words(config: IVTConfig, tokens: float, size: int) -> Component:
    """Rows of the word table, its norm, and its dense gradient: zeros, then a row a token."""
    rows = tokens * config.width
    table = config.vocabulary_size * config.width
    norm = _each(rows, _NORM, size)
    gathered = Cost(elementwise=2 * rows, bytes=rows * (_FLOAT + size))
    scattered = Cost(elementwise=rows, bytes=_FLOAT * (table + 3 * rows))
    return Component(norm.forward + gathered, norm.backward + scattered)
