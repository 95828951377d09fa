"""
A dashboard as a picture: the panels of its JSON where they lie, with what they ask for, as SVG.
"""

import math
import re
import time
from html import escape

COLUMN, UNIT, GAP, HEAD = 66, 33, 8, 30
PALETTE = ("#3274d9", "#e0752d", "#37872d", "#8f3bb8", "#c4162a", "#0a8f8f", "#b8860b", "#56718c", "#d0609a", "#6b8e23")
COLORS = {"green": "#37872d", "yellow": "#e0b400", "orange": "#e0752d", "red": "#c4162a", "purple": "#8f3bb8", "blue": "#3274d9"}
UNITS = {"watt": " W", "watth": " Wh", "celsius": " °C"}
INK, SOFT, RULE, PAPER = "#24292f", "#6a737d", "#e1e4e8", "#f4f5f7"
STYLE = (
    f"text{{font-family:Helvetica,Arial,sans-serif;font-size:11px;fill:{INK}}}"
    f".t{{font-size:13px;font-weight:600}}.s{{fill:{SOFT}}}"
)


def picture(dashboard, answers):
    """
    The SVG.

    :param answers: ``now(expression)`` and ``over_time(expression)`` with the time from ``begin`` to ``end``.
    """
    panels = dashboard["panels"]
    parts = [Panel(panel, answers, changes(dashboard, answers)).drawn() for panel in panels]
    width = 24 * COLUMN + GAP
    height = max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in panels) * UNIT + HEAD + GAP + 10
    head = f'<text x="{GAP}" y="24" style="font-size:18px;font-weight:600">{escape(dashboard["title"])}</text>'
    begin, end = clock(answers.begin), clock(answers.end)
    head += f'<text x="{width - GAP}" y="24" text-anchor="end" class="s">gpu7, {begin} to {end} UTC</text>'
    body = "\n".join([f'<rect width="{width}" height="{height}" fill="{PAPER}"/>', head, *parts])
    size = f'viewBox="0 0 {width} {height}" width="{width}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>\n{body}\n</svg>\n'


def changes(dashboard, answers):
    """When something was changed: the first time of each stretch in which an annotation of the dashboard is true."""
    told = [series for one in dashboard["annotations"]["list"] for series in answers.over_time(one["expr"])]
    found = sorted({at for _, points in told for at, _ in points})
    return [at for before, at in zip([0, *found], found, strict=False) if at - before > 120]


def clock(at):
    """A time of day, UTC."""
    return time.strftime("%H:%M", time.gmtime(at))


def shown(value, unit):
    """A value with its unit, as people read it."""
    if unit == "percentunit":
        return f"{value * 100:.0f} %"
    if unit == "bytes":
        return f"{value / 2**30:.1f} GiB"
    if unit == "s":
        return f"{value:.2g} s" if value < 120 else f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
    return f"{value:.0f}{UNITS.get(unit, '')}"


def short(text):
    """A series' name without what is the same for all: the host, and a PCI address's domain and function."""
    return re.sub(r"0000:(\w\w):00\.0", r"\1", text.replace("gpu7:9100 ", "")).strip()


def text_at(x, y, words, more=""):
    """A text, with its attributes."""
    return f'<text x="{x:.0f}" y="{y:.0f}" {more}>{escape(str(words))}</text>'


def box(x, y, width, height, color, more=""):
    """A filled rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" fill="{color}" {more}/>'


class Panel:
    """One panel."""

    def __init__(self, panel, answers, changes):
        at = panel["gridPos"]
        self.panel, self.answers, self.changes = panel, answers, changes
        self.x, self.y = at["x"] * COLUMN + GAP, at["y"] * UNIT + HEAD + GAP
        self.width, self.height = at["w"] * COLUMN - GAP, at["h"] * UNIT - GAP
        self.field = panel.get("fieldConfig", {"defaults": {}, "overrides": []})
        self.unit = self.field["defaults"].get("unit", "none")

    def drawn(self):
        """The panel with its frame."""
        kind = self.panel["type"]
        if kind == "row":
            return text_at(self.x, self.y + 19, self.panel["title"], 'class="t" style="font-size:15px"')
        draw = {"stat": self._stat, "timeseries": self._lines, "state-timeline": self._states, "table": self._table,
                "barchart": self._bars}[kind]  # fmt: skip
        frame = box(self.x, self.y, self.width, self.height, "#fff", f'rx="3" stroke="{RULE}"')
        title = text_at(self.x + 10, self.y + 20, self.panel["title"], 'class="t"')
        return "\n".join([frame, title, *(draw() if self._has_data() else [self._nothing()])])

    def _has_data(self):
        return any(self.answers.over_time(target["expr"]) for target in self.panel["targets"])

    def _nothing(self):
        return text_at(self.x + self.width / 2, self.y + self.height / 2 + 4, "No data", 'text-anchor="middle" class="s"')

    def _properties(self, name):
        found = {}
        for one in self.field["overrides"]:
            by, wanted = one["matcher"]["id"], one["matcher"]["options"]
            if wanted == name or (by == "byRegexp" and re.search(wanted.strip("/"), name)):
                found |= {each["id"]: each["value"] for each in one["properties"]}
        return found

    def _color(self, name, number):
        fixed = self._properties(name).get("color", {}).get("fixedColor")
        return COLORS.get(fixed, fixed) or PALETTE[number % len(PALETTE)]

    def _level(self, value):
        steps = self.field["defaults"]["thresholds"]["steps"]
        return COLORS[[one["color"] for one in steps if one["value"] is None or one["value"] <= value][-1]]

    def _series(self):
        """(name, points) of all that is asked for, by name."""
        found = []
        for target in self.panel["targets"]:
            for labels, points in self.answers.over_time(target["expr"]):
                name = re.sub(r"\{\{(\w+)\}\}", lambda match, labels=labels: labels.get(match[1], ""), target["legendFormat"])
                found.append((name, points))
        return sorted(found)

    # -- kinds of panels -------------------------------------------------------------------------------------------------
    def _stat(self):
        [(_, value)] = self.answers.now(self.panel["targets"][0]["expr"])
        style = f'text-anchor="middle" style="font-size:34px;font-weight:600;fill:{self._level(value)}"'
        return [text_at(self.x + self.width / 2, self.y + self.height / 2 + 22, shown(value, self.unit), style)]

    def _frame(self, top, rows):
        """Where a graph lies: left, upper edge, width, height; with the lines of its values and times."""
        left, upper, width = self.x + 56, self.y + 34, self.width - 72
        height = self.height - 34 - 26 - 16 * rows
        parts = []
        for step in range(5):
            y = upper + height * (1 - step / 4)
            parts.append(box(left, y, width, 1, RULE))
            parts.append(text_at(left - 6, y + 4, shown(top * step / 4, self.unit), 'text-anchor="end" class="s"'))
        return (left, upper, width, height), parts

    def _times(self, frame):
        left, upper, width, height = frame
        begin, end = self.answers.begin, self.answers.end
        parts = []
        for at in range(-(-begin // 1800) * 1800, end, 1800):
            x = left + width * (at - begin) / (end - begin)
            parts.append(text_at(x, upper + height + 15, clock(at), 'text-anchor="middle" class="s"'))
        return parts

    def _legend(self, names, rows):
        each = 14 * 3 + 6 * max(map(len, names))
        fits = max(1, int((self.width - 20) // each)) * rows
        parts, begin = [], self.y + self.height - 16 * rows + 4
        for number, (name, color) in enumerate(names.items()):
            if number == fits - 1 and len(names) > fits:
                name, color = f"and {len(names) - number} more", "none"
            x, y = self.x + 14 + each * (number % (fits // rows)), begin + 16 * (number // (fits // rows))
            parts += [box(x, y - 4, 12, 4, color), text_at(x + 17, y + 1, name)]
            if color == "none":
                break
        return parts

    def _lines(self):
        series = self._series()
        custom = self.field["defaults"]["custom"]
        stacked, highest = custom["stacking"]["mode"] == "normal", self.field["defaults"].get("max")
        names = {name: self._color(name, number) for number, (name, _) in enumerate(series)}
        sums = {}
        layers = []
        for name, points in series:
            below = [sums.get(at, 0) for at, _ in points] if stacked else [0] * len(points)
            layers.append((name, points, below))
            for (at, value), low in zip(points, below, strict=True):
                sums[at] = low + value if stacked else max(value, sums.get(at, 0))
        top = highest or nice(max(sums.values(), default=1))
        plain = {short(name): color for name, color in names.items() if not name.endswith(" cap")}
        rows = 1 if len(plain) <= 4 else 2
        frame, parts = self._frame(top, rows)
        left, upper, width, height = frame
        begin, end = self.answers.begin, self.answers.end

        def place(at, value):
            return f"{left + width * (at - begin) / (end - begin):.0f},{upper + height * (1 - min(value / top, 1)):.1f}"

        for name, points, below in layers:
            dash = 'stroke-dasharray="6 4"' if "custom.lineStyle" in self._properties(name) else ""
            step = custom["lineInterpolation"] == "stepAfter" or dash
            line = []
            for number, ((at, value), low) in enumerate(zip(points, below, strict=True)):
                if step and number:
                    line.append(place(at, points[number - 1][1] + below[number - 1]))
                line.append(place(at, value + low))
            if stacked:
                edge = [place(at, low) for (at, _), low in reversed(list(zip(points, below, strict=True)))]
                parts.append(f'<polygon points="{" ".join(line + edge)}" fill="{names[name]}" fill-opacity=".75"/>')
            else:
                look = f'fill="none" stroke="{names[name]}" stroke-width="1.4" {dash}'
                parts.append(f'<polyline points="{" ".join(line)}" {look}/>')
        for at in self.changes:
            x = left + width * (at - begin) / (end - begin)
            parts.append(f'<path d="M{x:.0f} {upper}v{height}" stroke="{COLORS["blue"]}" stroke-dasharray="3 3"/>')
        return [*parts, *self._times(frame), *self._legend(plain, rows)]

    def _states(self):
        states = self.field["defaults"]["mappings"][0]["options"]
        left, upper = self.x + 40, self.y + 36
        width, height = self.width - 56, self.height - 36 - 42
        begin, end = self.answers.begin, self.answers.end
        series, parts = self._series(), []
        row = height / len(series)
        for number, (name, points) in enumerate(series):
            y = upper + number * row
            parts.append(text_at(left - 8, y + row / 2 + 4, short(name), 'text-anchor="end"'))
            since = points[0]
            for at, value in [*points[1:], (end, None)]:
                if value == since[1]:
                    continue
                x, color = left + width * (since[0] - begin) / (end - begin), COLORS[states[f"{since[1]:.0f}"]["color"]]
                parts.append(box(x, y + row * 0.1, width * (at - since[0]) / (end - begin), row * 0.8, color))
                since = (at, value)
        legend = {one["text"]: COLORS[one["color"]] for one in states.values()}
        return [*parts, *self._times((left, upper, width, height)), *self._legend(legend, 1)]

    def _rows(self):
        """What a table shows: the rows, each as column -> value."""
        frames = [self.answers.now(target["expr"]) for target in self.panel["targets"]]
        names = [f"Value #{target['refId']}" if len(frames) > 1 else "Value" for target in self.panel["targets"]]
        told = [{name for labels, _ in frame for name in labels} for frame in frames if frame]
        common = set.intersection(*told) - {"__name__"} if told else set()
        rows = {}
        for name, frame in zip(names, frames, strict=True):
            for labels, value in frame:
                key = tuple(sorted((label, labels.get(label, "")) for label in common))
                rows.setdefault(key, {}).update({**labels, name: value})
        return list(rows.values())

    def _table(self):
        change = self.panel["transformations"][-1]["options"]
        rows = self._rows()
        if "columnField" in change:
            across, down = change["columnField"], change["rowField"]
            columns = {down: "GPU", **{row[across]: row[across] for row in rows}}
            merged = {}
            for row in rows:
                merged.setdefault(row[down], {down: row[down]})[row[across]] = row["Value"]
            rows = list(merged.values())
        else:
            columns = {name: change["renameByName"].get(name, name) for name in change["indexByName"]}
        first = {one["displayName"] for one in self.panel["options"].get("sortBy", ())}
        sort = [name for name, title in columns.items() if title in first]
        rows.sort(key=lambda row: [str(row.get(name, "")) for name in [*sort, "slice", "pci_bus_id"]])
        widths = [max(len(title), *(len(self._cell(row, name, title)) for row in rows)) + 3 for name, title in columns.items()]
        scale, y = (self.width - 24) / sum(widths), self.y + 42
        fits = int((self.height - 56) // 19)
        parts, x = [], self.x + 12
        for (name, title), size in zip(columns.items(), widths, strict=True):
            parts.append(text_at(x, y, title, 'class="s" style="font-weight:600"'))
            for number, row in enumerate(rows[:fits]):
                parts += self._drawn_cell(row, name, title, (x, y + 19 * (number + 1), size * scale))
            x += size * scale
        if len(rows) > fits:
            words = f"{fits} of {len(rows)} rows"
            parts.append(text_at(self.x + self.width - 12, self.y + 20, words, 'text-anchor="end" class="s"'))
        return parts

    def _cell(self, row, name, title):
        value = row.get(name, "")
        if isinstance(value, str):
            return short(value) if name == "pci_bus_id" and "columnField" in str(self.panel["transformations"]) else value
        return shown(value, self._properties(title).get("unit", "none"))

    def _drawn_cell(self, row, name, title, place):
        x, y, width = place
        words, how = self._cell(row, name, title), self._properties(title)
        kind = how.get("custom.cellOptions", {}).get("type")
        if kind == "color-background":
            color = COLORS[how["mappings"][0]["options"][words]["color"]]
            cell = box(x - 4, y - 13, width - 12, 17, color, 'rx="2" fill-opacity=".85"')
            return [cell, text_at(x, y, words, 'style="fill:#fff;font-weight:600"')]
        if kind == "gauge" and words:
            full = width - 62
            bars = [box(x, y - 10, full, 10, RULE), box(x, y - 10, full * row[name], 10, COLORS["blue"])]
            return [*bars, text_at(x + full + 8, y, words)]
        return [box(self.x + 8, y + 5, self.width - 16, 0.5, RULE) if name == "instance" else "", text_at(x, y, words)]

    def _bars(self):
        field = self.panel["options"]["xField"]
        heights = {}
        for target, kind in zip(self.panel["targets"], ("active", "idle"), strict=True):
            for labels, value in self.answers.now(target["expr"]):
                heights.setdefault(labels[field], {})[kind] = value
        top = nice(max(sum(one.values()) for one in heights.values()))
        frame, parts = self._frame(top, 4)
        left, upper, width, height = frame
        each = width / len(heights)
        for number, (name, stack) in enumerate(sorted(heights.items())):
            x, y = left + each * (number + 0.15), upper + height
            for kind, value in stack.items():
                y -= height * value / top
                parts.append(box(x, y, each * 0.7, height * value / top, self._color(kind, 0)))
            at = f"{x + each * 0.35:.0f} {upper + height + 12:.0f}"
            parts.append(f'<text transform="translate({at}) rotate(-35)" text-anchor="end">{escape(short(name))}</text>')
        return [*parts, *self._legend({kind: self._color(kind, 0) for kind in ("active", "idle")}, 1)]


def nice(value):
    """The next round number."""
    if value <= 0:
        return 1
    power = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10) if step * power >= value)
