"""One figure: a canvas with its words and numbers, or the reason why there is none."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ivt_jax.retrieval.canvas import THEMES, Canvas
from ivt_jax.retrieval.svg import to_svg

SCALE = 3  # pixels of a PNG for one of the canvas: 288 dots an inch where the sheet is 169 mm wide
_INCH = 96  # pixels of a canvas


@dataclass(frozen=True)
class Figure:
    """A figure of a run.

    Attributes:
        name: of its files.
        title: a few words.
        note: what it shows and how its examples were chosen.
        told: what it shows, for a reader who cannot see it.
        canvas: the drawing; None = not drawn.
        missing: why it is not drawn.
        numbers: all that it shows, for JSON.
    """

    name: str
    title: str
    note: str = ""
    told: str = ""
    canvas: Canvas | None = None
    missing: str = ""
    numbers: Any = field(default_factory=dict)

    def save(self, folder: Path) -> list[str]:
        """Writes NAME-light.png, NAME-light.svg and the dark ones; returns their names."""
        if self.canvas is None:
            return []
        names = []
        for theme in THEMES:
            stem = f"{self.name}-{theme}"
            picture = self.canvas.finish(theme, scale=SCALE)
            picture.save(folder / f"{stem}.png", dpi=(SCALE * _INCH, SCALE * _INCH))
            (folder / f"{stem}.svg").write_text(self.svg(theme), encoding="utf-8")
            names += [f"{stem}.png", f"{stem}.svg"]
        return names

    def svg(self, theme: str) -> str:
        """As `to_svg` writes it; ValueError if it is not drawn."""
        if self.canvas is None:
            raise ValueError(f"{self.name} is not drawn: {self.missing}")
        return to_svg(self.canvas, theme=theme, title=self.title, description=self.told)


def absent(name: str, title: str, reason: str) -> Figure:
    """A figure that is not drawn, and why."""
    return Figure(name, title, missing=reason)
