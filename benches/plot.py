"""The pictures: SVG, readable on light and dark pages, drawn from what bench.json holds."""
import math
import os
import statistics
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, ROW = 760, 250, 84, 30
STYLE = """<style>
text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.page { fill: #fff; stroke: #d1d9e0 } .grid { stroke: #8b949e; stroke-opacity: .3 }
.title { font-weight: 600; font-size: 15px } .note, .tick { fill: #59636e; font-size: 12px }
.ours { fill: #2f81f7 } .theirs { fill: #8b949e } .machine { fill: #b08800 }
.line { fill: none; stroke-width: 2.5 } .range { stroke: #1f2328; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117; stroke: #3d444d } text { fill: #e6edf3 }
  .note, .tick { fill: #9198a1 } .range { stroke: #e6edf3 }
}
</style>"""
COLOURS = {"libckpt": "#2f81f7", "h5py": "#d1242f", "safetensors": "#1a7f37", "torch.save": "#bf8700"}


def seconds(s):
    if s < 1e-3:
        return f"{s * 1e6:.0f} µs"
    return f"{s * 1e3:.3g} ms" if s < 0.9995 else f"{s:.3g} s"


def text(x, y, words, cls="", anchor="start"):
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{cls}" text-anchor="{anchor}">{escape(words)}</text>'


def svg(height, parts, title):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
            f'viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">\n{STYLE}\n'
            f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="6" class="page"/>\n'
            + "\n".join(parts) + "\n</svg>\n")


def bars(title, note, rows):
    """Horizontal bars: (label, class, seconds of each round). A line over each shows its quartiles."""
    quartiles = [statistics.quantiles(v, n=4, method="inclusive") if len(v) > 1 else v * 3 for _, _, v in rows]
    scale = (WIDTH - LEFT - RIGHT) / max(high for _, _, high in quartiles)
    parts = [text(12, 26, title, "title"), text(12, 46, note, "note")]
    y = 62
    for (label, cls, _), (low, median, high) in zip(rows, quartiles):
        ends = [LEFT + v * scale for v in (low, high)]
        parts.append(text(LEFT - 10, y + 16, label, anchor="end"))
        width = max(median * scale, 1.5)
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="22" rx="3" class="{cls}"/>')
        parts.append(f'<path d="M{ends[0]:.1f} {y + 11}H{ends[1]:.1f}" class="range"/>')
        parts.append(text(max(ends[1], LEFT + median * scale) + 8, y + 16, seconds(median)))
        y += ROW
    return svg(y + 8, parts, title)


def lines(title, note, curves):
    """Seconds by number of tensors, both logarithmic: {name: [(count, seconds)]}."""
    points = [p for curve in curves.values() for p in curve]
    x0, x1 = (math.log10(f(c for c, _ in points)) for f in (min, max))
    y0, y1 = math.floor(math.log10(min(s for _, s in points))), math.ceil(math.log10(max(s for _, s in points)))
    left, right, top, height = 70, 110, 66, 300

    def at(count, secs):
        return (left + (math.log10(count) - x0) / (x1 - x0) * (WIDTH - left - right),
                top + (y1 - math.log10(secs)) / (y1 - y0) * height)

    parts = [text(12, 26, title, "title"), text(12, 46, note, "note")]
    for power in range(y0, y1 + 1):
        y = at(1, 10.0**power)[1]
        parts += [f'<path d="M{left} {y:.1f}H{WIDTH - right}" class="grid"/>',
                  text(left - 8, y + 4, seconds(10.0**power), "tick", "end")]
    for power in range(math.ceil(x0), math.floor(x1) + 1):
        x = at(10**power, 1)[0]
        parts.append(text(x, top + height + 20, f"{10**power:,}", "tick", "middle"))
    parts.append(text((WIDTH - right + left) / 2, top + height + 40, "tensors", "tick", "middle"))
    for name, curve in curves.items():
        colour = COLOURS[name]
        steps = " L".join(f"{x:.1f} {y:.1f}" for x, y in (at(*p) for p in sorted(curve)))
        parts.append(f'<path d="M{steps}" class="line" stroke="{colour}"/>')
        for point in curve:
            x, y = at(*point)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
        x, y = at(*max(curve))
        parts.append(f'<text x="{x + 10:.0f}" y="{y + 4:.0f}" style="fill:{colour};font-weight:600">{name}</text>')
    return svg(top + height + 54, parts, title)


SAVED = [
    ("libckpt, in the background", "ours", "libckpt COPY", "background"),
    ("libckpt, .weights.h5", "ours", "libckpt, recycled", "secs"),
    ("libckpt, .keras", "ours", "libckpt, recycled, .keras", "secs"),
    ("pwrite + fsync", "machine", "pwrite + fsync", "secs"),
    ("torch checkpoint, async", "theirs", "torch async_save", "secs"),
    ("safetensors*", "theirs", "safetensors", "secs"),
    ("torch.save*", "theirs", "torch.save", "secs"),
    ("HDF5 in C++*", "theirs", "HDF5 in C++", "secs"),
    ("h5py*", "theirs", "h5py", "secs"),
    ("Keras, .weights.h5*", "theirs", "Keras .weights.h5", "secs"),
    ("Keras, .keras*", "theirs", "Keras .keras", "secs"),
]
STOPPED = [
    ("libckpt, BORROW", "ours", "libckpt BORROW", "stall"),
    ("libckpt, COPY", "ours", "libckpt COPY", "stall"),
    ("libckpt, synchronous", "ours", "libckpt, recycled", "secs"),
    ("one memcpy", "machine", "memcpy", "secs"),
    ("pwrite + fsync", "machine", "pwrite + fsync", "secs"),
    ("torch checkpoint, async", "theirs", "torch async_save", "stall"),
    ("safetensors*", "theirs", "safetensors", "secs"),
    ("torch.save*", "theirs", "torch.save", "secs"),
    ("Keras, .weights.h5*", "theirs", "Keras .weights.h5", "secs"),
    ("Keras, .keras*", "theirs", "Keras .keras", "secs"),
]


def by_tensors(cases):
    """{name: [(number of small tensors, seconds)]} of all cases that tell."""
    curves = {}

    def add(name, count, case, label):
        if label in case and count:
            curves.setdefault(name, []).append((count, statistics.median(case[label]["secs"])))

    def number(words):
        return int(words.replace(",", ""))

    for label in cases.get("saves of small tensors, not durable", {}):
        add("libckpt", number(label.split()[0]), cases["saves of small tensors, not durable"], label)
    for label in cases.get("peers by the number of small tensors", {}):
        peer, _, count = label.partition(", ")
        add(peer, number(count), cases["peers by the number of small tensors"], label)
    for title, case in cases.items():
        if title.startswith("save ") and title.endswith(" small tensors, not durable"):
            for peer in COLOURS.keys() - {"libckpt"}:
                add(peer, number(title.split()[1]), case, peer)
    return curves


def draw(data, directory):
    """Draws what there are measurements for."""
    m, size = data["machine"], "64 MiB" if data["quick"] else "512 MiB"
    note = f"{m['cpu']}, {m['cores']} cores, {m['file_system']}, medians"
    case = data["cases"].get(f"save {size} in 100 tensors, beside the peers", {})

    def write(name, picture):
        with open(os.path.join(directory, name), "w") as f:
            f.write(picture)

    def rows(wanted):
        return [(label, cls, case[name][key]) for label, cls, name, key in wanted if key in case.get(name, {})]

    ranged = note + ", the thin line from quartile to quartile. * not flushed: a loss of power can take it"
    if case:
        write("save.svg", bars(f"{size} safely on the disk", ranged, rows(SAVED)))
        write("stall.svg", bars(f"How long a save of {size} stops the training", ranged, rows(STOPPED)))
    curves = by_tensors(data["cases"])
    if "libckpt" in curves and len(curves) > 1:
        write("tensors.svg", lines("What a save takes, by the number of its tensors",
                                   f"{note}; tensors of 128 bytes, nothing flushed", curves))
