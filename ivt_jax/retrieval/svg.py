"""Writes a canvas as SVG: text stays text, photos are JPEGs inside, nothing is referred to."""

import base64
import io
from html import escape

from PIL import Image

from ivt_jax.retrieval.canvas import THEMES, Canvas, Disc, Line, Photo, Rectangle, Text, font, plain

_FONTS = "Aileron, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', Inter, sans-serif"
_ANCHORS = {"l": "", "m": ' text-anchor="middle"', "r": ' text-anchor="end"'}
_FINEST = 3  # stored pixels of a photo for each pixel of its box, at most


def to_svg(canvas: Canvas, *, theme: str, title: str, description: str) -> str:
    """One `<svg>` element that needs nothing else.

    Args:
        canvas: the picture.
        theme: "light" or "dark" of THEMES, or "page": colours are the custom properties
            `--background`, `--ink` and so on of the HTML page that holds it, whose own text has
            title and note, so that the body of the canvas is shown alone.
        title: its name.
        description: what a reader who cannot see it is told.
    """
    known = THEMES["light"]
    colors = {name: f"var(--{name})" for name in known} if theme == "page" else THEMES[theme]
    box = canvas.body if theme == "page" else (0, 0, canvas.width, canvas.height)
    left, top, width, height = map(_n, box)
    size = f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}"'
    told = f"{title}. {description}" if description else title
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" '
        f'aria-label="{escape(_printable(told))}" font-family="{_FONTS}">',
    ]
    if theme != "page":
        head.append(f"<title>{escape(_printable(title))}</title>")
        head.append(f"<desc>{escape(_printable(description))}</desc>")
    behind = f'x="{left}" y="{top}" width="{width}" height="{height}"'
    head.append(f"<rect {behind} {_fill(colors['background'])}/>")
    return "\n".join([*head, *(_written(shape, colors) for shape in canvas.shapes), "</svg>"])


def _written(shape, colors: dict[str, str]) -> str:
    named: str = getattr(shape, "color", "")  # photos have none
    color = colors.get(named, named)
    match shape:
        case Text():
            return _text(shape, color)
        case Line(points, _, width):
            path = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
            stroke = _paint(stroke=color)
            ends = 'fill="none" stroke-linejoin="round"'
            return f'<polyline points="{path}" {ends} stroke-width="{_n(width)}" {stroke}/>'
        case Rectangle(at, size):
            return f"<rect {_box(at, size)} {_fill(color)}/>"
        case Disc((x, y), radius):
            return f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" {_fill(color)}/>'
        case Photo(image, at, size):
            shown = "slice" if shape.cropped else "meet"
            behind = "" if shape.cropped else f"<rect {_box(at, size)} {_fill(colors['panel'])}/>"
            return (
                f'{behind}<image {_box(at, size)} preserveAspectRatio="xMidYMid {shown}" '
                f'href="{_jpeg(image, size)}"/>'
            )
    raise TypeError(f"no shape: {shape!r}")


def _text(shape: Text, color: str) -> str:
    if not shape.text.strip():
        return ""
    ascent, descent = font(shape.size * 8).getmetrics()  # type: ignore[union-attr]
    down = {"a": ascent, "m": (ascent - descent) / 2, "s": 0.0}[shape.anchor[1]] / 8
    paint = _paint(fill=color, stroke=color) if shape.bold else _fill(color)
    weight = ' stroke-width="0.4"' if shape.bold else ""
    # Another font than Pillow's must not reach beyond the place that was measured.
    width, written = font(shape.size * 8).getlength(plain(shape.text)) / 8, _printable(shape.text)
    fitted = f' textLength="{_n(width)}" lengthAdjust="spacing"' * written.isascii()
    return (
        f'<text x="{_n(shape.at[0])}" y="{_n(shape.at[1] + down)}" font-size="{_n(shape.size)}"'
        f"{_ANCHORS[shape.anchor[0]]}{fitted}{weight} {paint}>{escape(written)}</text>"
    )


def _jpeg(image: Image.Image, size: tuple[float, float]) -> str:
    most = round(_FINEST * size[0]), round(_FINEST * size[1])
    smaller = image.copy()
    smaller.thumbnail((2 * most[0], most[1]) if image.width < image.height else most)
    written = io.BytesIO()
    smaller.save(written, "JPEG", quality=88, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"


def _box(at: tuple[float, float], size: tuple[float, float]) -> str:
    return f'x="{_n(at[0])}" y="{_n(at[1])}" width="{_n(size[0])}" height="{_n(size[1])}"'


def _fill(color: str) -> str:
    return _paint(fill=color)


def _paint(**colors: str) -> str:
    """Attributes; custom properties are read in style alone."""
    if all(color.startswith("var(") for color in colors.values()):
        return f'style="{";".join(f"{name}:{color}" for name, color in colors.items())}"'
    return " ".join(f'{name}="{escape(color)}"' for name, color in colors.items())


def _printable(text: str) -> str:
    """Without the signs that XML does not allow, lone surrogates among them."""
    return "".join(c if c.isprintable() or c == " " else " " for c in text)


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
