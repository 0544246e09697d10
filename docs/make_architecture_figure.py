"""Draws docs/architecture.svg: the mixed attention block, and how pre-training works.

python3 docs/make_architecture_figure.py
"""

from pathlib import Path
from xml.sax.saxutils import escape

TARGET = Path(__file__).with_name("architecture.svg")
WIDTH, HEIGHT, LINE_HEIGHT = 1000, 590, 17
INK, FAINT = "#1f2328", "#59636e"
COLORS = {
    "data": "#eef1f5",
    "dense": "#dbe9fb",
    "attention": "#fde8d3",
    "convolution": "#d9f0dd",
    "norm": "#f3e4f7",
}
# x, y, width, height and color; then lines of text. If there are several, the first is bold.
BOXES = """
220 60 160 34 data | hidden states [B, T, H]
38 142 100 46 dense | value | dense
147 142 100 46 dense | key | dense
256 142 100 46 dense | query | dense
365 142 100 46 dense | span key | separable conv.
474 142 100 46 dense | conv. values | dense
38 226 218 130 attention | self-attention, N heads | softmax(query · key / √D) · value
296 226 206 46 convolution | dynamic kernel | dense(query ⊙ span), softmax
296 302 278 54 convolution | dynamic convolution, N heads | each window of 9 has its own kernel
185 396 230 32 dense | concatenate, dense
185 444 230 32 norm | add, LayerNorm
185 492 230 32 dense | feed-forward: grouped linear
185 540 230 32 norm | add, LayerNorm
660 60 280 34 data | she reads a long book
660 132 280 34 data | she [MASK] a long [MASK]
690 204 220 56 attention | generator | small ConvBERT, mask head
660 298 280 34 data | she writes a long book
660 370 280 56 convolution | discriminator | ConvBERT encoder, binary head
660 464 280 34 data | original, replaced, original, …
"""
# Points that a line passes through; its head is at the last one.
ARROWS = [
    *[[(300, 94), (300, 118), (x, 118), (x, 142)] for x in (88, 197, 306, 415, 524)],
    *[[(x, 188), (x, 226)] for x in (88, 197, 415)],
    [(306, 188), (306, 206), (230, 206), (230, 226)],
    [(306, 188), (306, 206), (340, 206), (340, 226)],
    [(399, 272), (399, 302)],
    [(538, 188), (538, 302)],
    [(150, 356), (150, 376), (270, 376), (270, 396)],
    [(435, 356), (435, 376), (330, 376), (330, 396)],
    *[[(300, y), (300, y + 16)] for y in (428, 476, 524)],
    [(220, 77), (20, 77), (20, 460), (185, 460)],
    [(415, 460), (445, 460), (445, 556), (415, 556)],
    *[[(800, y), (800, end)] for y, end in ((94, 132), (166, 204), (260, 298), (332, 370))],
    [(800, 426), (800, 464)],
]
SHARED_EMBEDDINGS = [(690, 232), (636, 232), (636, 398), (660, 398)]
# x, y of the baseline, text, size, anchor, color, weight.
LABELS = [
    (300, 42, "One layer: the mixed attention block", 17, "middle", INK, "bold"),
    (800, 42, "Pre-training: detect replaced tokens", 17, "middle", INK, "bold"),
    (810, 118, "mask 15 % of the tokens", 12, "start", FAINT),
    (810, 284, "draw a token for each mask", 12, "start", FAINT),
    (800, 528, "loss = masked-token loss + 50 · detection loss"),
    (800, 552, "dashed: shared embeddings", 12, "middle", FAINT),
]


def draw_text(x, y, text, size=13, anchor="middle", color=INK, weight="normal") -> str:
    """One line of text; `y` is its baseline."""
    style = f'font-size="{size}" text-anchor="{anchor}" fill="{color}" font-weight="{weight}"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(text)}</text>'


def draw_box(shape, *lines) -> str:
    """A rounded box with centered lines of text."""
    *numbers, kind = shape.split()
    x, y, width, height = map(int, numbers)
    place = f'x="{x}" y="{y}" width="{width}" height="{height}"'
    parts = [f'<rect {place} rx="7" fill="{COLORS[kind]}" stroke="{FAINT}"/>']
    baseline = y + height / 2 - LINE_HEIGHT * (len(lines) - 1) / 2 + 4.5
    for i, line in enumerate(lines):
        weight = "bold" if i == 0 and len(lines) > 1 else "normal"
        parts.append(draw_text(x + width / 2, baseline + LINE_HEIGHT * i, line, weight=weight))
    return "\n".join(parts)


def draw_arrow(points, style="") -> str:
    """A line through points, with a head at its end."""
    path = " ".join(f"{x},{y}" for x, y in points)
    line = f'fill="none" stroke="{FAINT}" stroke-width="1.4" marker-end="url(#head)" {style}'
    return f'<polyline points="{path}" {line}/>'


def make_figure() -> str:
    """The text of the SVG file."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="Helvetica, Arial, sans-serif">',
        "<title>The mixed attention block, and pre-training by replaced-token detection</title>",
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{FAINT}"/></marker>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="14" fill="#ffffff"/>',
        draw_arrow(SHARED_EMBEDDINGS, 'stroke-dasharray="5 4"'),
        *[draw_arrow(points) for points in ARROWS],
        *[draw_box(*row.split(" | ")) for row in BOXES.strip().splitlines()],
        *[draw_text(*label) for label in LABELS],
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(make_figure(), encoding="utf-8")
