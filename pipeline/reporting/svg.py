"""How figures look, and how they become SVG files.

A file is read in three places: by itself (in MLflow and in DVC's page: black on white), and inside the report, where it
takes the page's text colour and letters. Nothing here touches pyplot's global state.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.colors import hsv_to_rgb, to_rgba
from matplotlib.figure import Figure

INK = "#1b1d1f"  # a colour nothing else has: `to_svg` makes it `currentColor`
BLUE, ORANGE, GREY, RED = "#3a7fc4", "#d9822b", "#8a9099", "#cf4446"
DEEP_BLUE = "#2462a6"
# Neighbours in the list differ in lightness as well as in hue, for readers who do not see all hues.
QUALITATIVE = (BLUE, ORANGE, "#2a9d78", "#b85fa0", "#c9a227", "#6f5fc4", "#46b0c9", "#9a6a48", "#7fae3b", "#d3718c")
# `svg:root` is the file shown by itself; in a page the root is the page.
ALONE = "<style>svg:root { color: #1b1d1f; background: #fff; font-family: 'DejaVu Sans', sans-serif }</style>"
WIDTH = 10.0  # inches; the page shows figures at most this wide
_STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: no machine lacks it
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a class name may hold dollar signs
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.color": GREY,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "svg.hashsalt": "lrcn",
}


def class_colors(classes: Sequence[str], background: str | None = None) -> dict[str, Any]:
    """A colour per class: grey for the background, ten chosen ones, then hues by the golden angle."""
    colors: dict[str, Any] = {}
    for index, name in enumerate(name for name in classes if name != background):
        if index < len(QUALITATIVE):
            colors[name] = QUALITATIVE[index]
        else:
            lightness = (0.82, 0.62, 0.72)[index % 3]
            colors[name] = tuple(map(float, hsv_to_rgb(((index * 0.618034) % 1.0, 0.62, lightness))))
    if background is not None and background in classes:
        colors[background] = to_rgba(GREY, 0.35)
    return colors


def to_svg(figure: Figure, label: str = "") -> str:
    """A figure as an SVG file, which is an `<svg>` element too: the same figure gives the same text on every machine.

    By itself it is black on white; within a page the ink follows the page's text colour and letters are the page's own.
    `label` is what a screen reader says.
    """
    buffer = io.StringIO()
    with style(), warnings.catch_warnings():
        # Letters that the measuring font lacks; the browser has its own fonts for them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    figure.set_layout_engine("none")  # laid out a second time it would shift a little
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # Names of groups repeat from figure to figure; only what is referred to keeps its id.
    referred = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in referred else "", svg)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)  # it would style the page
    svg = re.sub(r">\s+<", "><", svg)
    # A hundredth of a point is finer than any screen, and a third of the size.
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"\d+\.\d{3,}", lambda part: f"{float(part[0]):.2f}", tag[0]), svg)
    svg = svg.replace(INK, "currentColor").replace("'DejaVu Sans'", "inherit")
    name = label.encode("utf-8", "replace").decode().replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    lines = "stroke-linejoin: round; stroke-linecap: butt"
    svg = svg.replace(">", f">{ALONE}", 1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{name}" style="{lines}"', 1)


@contextmanager
def style() -> Iterator[None]:
    """Within it figures are drawn in the project's style, whatever is set elsewhere."""
    with mpl.rc_context(_STYLE):
        yield
