"""One image of a drawn pedestrian: how the photo was taken, what it shows, and its pixels."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from ivt_jax.data.synthetic import accessories, backgrounds, figure, garments
from ivt_jax.data.synthetic.attributes import FACINGS
from ivt_jax.data.synthetic.drawing import (
    HEIGHT,
    SCALE,
    WIDTH,
    Canvas,
    darker,
    generator,
    pick,
    weighted,
)

_PLACES = {"street": 3.0, "park": 2, "room": 1.2, "shop": 1.4, "station": 1.6, "beach": 0.7}
_OCCLUDERS = {"none": 7.2, "pole": 1.0, "bush": 0.7, "car": 0.5, "crate": 0.5}


@dataclass(frozen=True)
class View:
    """Everything that differs between two images of one person."""

    facing: str  # "front" | "back" | "left" | "right"
    place: str  # a backdrop of backgrounds.py
    occluder: str  # "none" | "pole" | "bush" | "car" | "crate"
    crop: str  # "whole" | "feet": the lower frame cuts the feet off
    stride: float  # swing of the legs in degrees

    @property
    def hidden_feet(self) -> bool:
        """Whether the shoes cannot be seen."""
        return self.crop == "feet" or self.occluder in ("bush", "car", "crate")

    @property
    def activity(self) -> str:
        """ "walking" or "standing"."""
        return "walking" if abs(self.stride) > 12 else "standing"


def draw_view(rng: np.random.Generator) -> View:
    """A random way to see a person."""
    walking = rng.random() < 0.6
    stride = float(rng.uniform(16, 28) if walking else rng.uniform(0, 8))
    return View(
        facing=weighted(rng, FACINGS),
        place=weighted(rng, _PLACES),
        occluder=weighted(rng, _OCCLUDERS),
        crop="feet" if rng.random() < 0.06 else "whole",
        stride=stride if rng.random() < 0.5 else -stride,
    )


def person_figure(
    attributes: dict[str, str], view: View, person: np.random.Generator, image: np.random.Generator
) -> figure.Figure:
    """The body in its pose; `person` draws what all images share, `image` what is this one's."""
    body = figure.Figure(
        attributes=attributes,
        facing=view.facing,
        skin=pick(person, figure.SKINS),
        build=float(person.uniform(0.94, 1.14)),
        style=int(person.integers(60)),
        tint=figure.worn_colours(attributes, person),
    )
    actions = {d: "hip" if image.random() < 0.12 else "down" for d in (-1, 1)}
    if body.profile:
        actions = {-1: "down", 1: "down"}
    bag, held = attributes["bag"], attributes["held"]
    if bag in ("handbag", "suitcase"):
        side = body.side(attributes["bag_side"])
        actions[side] = "trail" if body.profile and bag == "suitcase" else "carry"
    if attributes["umbrella"] != "none":
        actions[accessories.umbrella_hand(body)] = "up"
    elif held != "none":
        actions[accessories.umbrella_hand(body)] = "hold"
    figure.pose(body, actions, stride=view.stride, bend=float(image.uniform(-2, 7)))
    return body


def draw_person(canvas: Canvas, body: figure.Figure) -> None:
    """The whole person at the canvas's place, from the back to the front."""
    accessories.draw_umbrella(canvas, body)
    if body.facing == "back":
        accessories.draw_held(canvas, body)
        for d in (-1, 1):
            if body.arms[d][2][1] < 34:
                garments.draw_arm(canvas, body, d)
    if body.profile:
        garments.draw_arm(canvas, body, -1)
        if accessories.umbrella_hand(body) == -1:
            accessories.draw_held(canvas, body)
    accessories.draw_bag_behind(canvas, body)
    accessories.draw_back_hair(canvas, body)
    for d in (-1, 1):
        garments.draw_leg(canvas, body, d)
    garments.draw_pelvis(canvas, body)
    with canvas.part("head"):
        canvas.box(-2.5, 11, 2.5, 19, darker(body.skin, 0.14), 1.5)
    garments.draw_torso(canvas, body)
    if not body.profile:
        accessories.draw_bag_front(canvas, body)
    for d in (1,) if body.profile else (-1, 1):
        if not (body.facing == "back" and body.arms[d][2][1] < 34):
            garments.draw_arm(canvas, body, d)
    if body.profile:
        accessories.draw_bag_front(canvas, body)
    accessories.draw_scarf(canvas, body)
    accessories.draw_head(canvas, body)
    accessories.draw_hat(canvas, body)
    if not body.profile or accessories.umbrella_hand(body) == 1:
        accessories.draw_held(canvas, body)


def render_person(
    attributes: dict[str, str], view: View, *, person: tuple[int, ...], image: tuple[int, ...]
) -> tuple[bytes, dict[str, list[float]]]:
    """JPEG bytes of one image and the boxes of its parts.

    `person` and `image` are the numbers of the two random streams.
    """
    rng = generator(*image)
    canvas = Canvas(backgrounds.backdrop(view.place, rng, blur=float(rng.uniform(0.6, 1.6))))
    body = person_figure(attributes, view, generator(*person), rng)
    tall = 121.0 if attributes["umbrella"] != "none" else 104.0
    scale = float(rng.uniform(0.87, 0.985)) * (HEIGHT - 6) / tall
    if attributes["bag"] == "suitcase" or (body.profile and attributes["bag"] != "none"):
        scale *= 0.95
    ground = HEIGHT - float(rng.uniform(2, 8))
    if view.crop == "feet":
        scale *= 1.07
        ground = HEIGHT + 11 * scale
    x, mirror = WIDTH / 2 + float(rng.uniform(-6, 6)), -1 if view.facing == "left" else 1
    if attributes["bag"] == "suitcase":
        side = -1 if body.profile else body.side(attributes["bag_side"])
        x -= mirror * side * 7
    canvas.place(x, ground - 100 * scale, scale, mirror)
    canvas.shadow(1, 99, 20, 4.2, 0.55)
    draw_person(canvas, body)
    boxes = canvas.normalised_boxes()
    if view.occluder != "none":
        canvas.place(0, 0)
        backgrounds.occlude(canvas, view.occluder, rng)
    if view.hidden_feet:
        boxes.pop("shoes", None)
    return finish(canvas.image, rng), boxes


def finish(image: Image.Image, rng: np.random.Generator) -> bytes:
    """Reduces a drawing to its stored size and gives it light, blur, noise and JPEG loss."""
    image = image.reduce(SCALE)
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.8))))
    pixels = np.asarray(image, np.float32)
    gain = float(rng.uniform(0.82, 1.08)) * (1 + rng.uniform(-0.035, 0.035, 3))
    slope = float(rng.uniform(-0.1, 0.1))
    across = 1 + slope * np.linspace(-1, 1, WIDTH)[None, :, None]
    lit = pixels * (gain * across).astype(np.float32)
    grain = float(rng.uniform(0, 4))
    lit += rng.standard_normal((HEIGHT, WIDTH, 1), np.float32) * np.float32(grain)
    stored = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
    out = io.BytesIO()
    stored.save(out, "JPEG", quality=int(rng.integers(72, 94)))
    return out.getvalue()
