"""The comparison as one SVG: for each event one line a balancer, for each round one dot. No library."""
import math
from html import escape

COLOURS = {"muster": "#d1495b", "envoy-dns": "#7b5ea7", "haproxy": "#2a7ab8", "nginx": "#2e8b57", "caddy": "#b8860b"}
LEFT, WIDTH, RIGHT = 240, 540, 110
LINE, GAP, TOP = 16, 14, 64
LOW, HIGH = 1, 10_000

STYLE = """
  .card { fill: #ffffff; stroke: #d0d7de } .text { fill: #1f2328 } .faint { fill: #59636e } .grid { stroke: #d8dee4 }
  .event { font-weight: 600 } .lost { fill: #b3261e; font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    .card { fill: #161b22; stroke: #30363d } .text { fill: #e6edf3 } .faint { fill: #9198a1 } .grid { stroke: #30363d }
    .lost { fill: #ff7b72 }
  }
  text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif }
"""


def draw(title, subtitle, rows):
    """rows: (event, [(balancer, [milliseconds], failed requests or None)]); a None among the times is 'never'."""
    height = TOP + sum(len(lines) * LINE + GAP for _, lines in rows) + 40
    whole = LEFT + WIDTH + RIGHT
    bottom = height - 36
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole} {height}" width="{whole}" height="{height}" role="img" aria-labelledby="t d">',
        f'<title id="t">{escape(title)}</title>', f'<desc id="d">{escape(subtitle)}</desc>', f"<style>{STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{whole - 1}" height="{height - 1}" rx="8"/>',
        f'<text class="text event" x="16" y="24" style="font-size:15px">{escape(title)}</text>',
        f'<text class="faint" x="16" y="42">{escape(subtitle)}</text>',
    ]
    for power in range(int(math.log10(HIGH)) + 1):
        at = x(10**power)
        label = f"{10**power} ms" if power < 3 else f"{10 ** (power - 3)} s"
        out.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 8}" y2="{bottom}"/>')
        out.append(f'<text class="faint" x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    y = TOP
    for event, lines in rows:
        out.append(f'<text class="text event" x="16" y="{y + LINE - 4}">{escape(event)}</text>')
        for name, times, failed in lines:
            out += line(name, times, failed, y)
            y += LINE
        y += GAP
    return "\n".join(out + ["</svg>", ""])


def line(name, times, failed, y):
    middle = y + LINE / 2
    known = sorted(time for time in times if time is not None)
    out = [f'<text class="faint" x="{LEFT - 12}" y="{y + LINE - 4}" text-anchor="end">{escape(name)}</text>']
    for time in known:
        out.append(f'<circle cx="{x(time):.1f}" cy="{middle}" r="3.4" fill="{COLOURS[name]}" fill-opacity="0.55"/>')
    if known:
        at = x(known[len(known) // 2] if len(known) % 2 else (known[len(known) // 2 - 1] + known[len(known) // 2]) / 2)
        out.append(f'<rect x="{at - 1.5:.1f}" y="{y + 1}" width="3" height="{LINE - 2}" fill="{COLOURS[name]}"/>')
    notes = ([f"{failed} failed"] if failed else []) + ([f"{times.count(None)}x never"] if None in times else [])
    if notes:
        out.append(f'<text class="lost" x="{LEFT + WIDTH + 12}" y="{y + LINE - 4}">{", ".join(notes)}</text>')
    return out


def x(time):
    share = math.log10(min(max(time, LOW), HIGH) / LOW) / math.log10(HIGH / LOW)
    return LEFT + share * WIDTH
