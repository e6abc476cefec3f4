"""The pictures of docs/images: a real fleet, healthy, changing and stale; empty is written here, for no fleet that
answers has no node. Light and dark, each under 150 KB."""

import sys

from browser import chromium
from check import EMPTY, Page, expect
from fleet import ROOT, Clock, Fleet, eventually
from PIL import Image

FOLDER = ROOT / "docs/images"
LARGEST = 150_000
ALL_GONE = """says => { const { revision } = says.events[0], at = new Date().toISOString();
  const gone = (event, node) => ({ revision: revision + 1, at, event, node, instance: "", ip: null, reason: "" });
  return { ...says, events: [gone("leader-changed", ""), ...[1, 2, 3, 5, 6].map((n) => gone("expired", `node${n}`)), ...says.events] }; }"""


def shoot(pages, name):
    for scheme, page in pages.items():
        # A caret or a hovered button would make every picture another one.
        page.page.mouse.move(0, 0)
        file = FOLDER / (f"page-{scheme}.png" if name == "healthy" else f"page-{name}-{scheme}.png")
        page.page.screenshot(path=file, full_page=True)
        # Few colours and much text: a palette is a third of the size and looks the same.
        with Image.open(file) as picture:
            picture.convert("RGB").quantize(256, kmeans=2, dither=Image.Dither.NONE).save(file, optimize=True)
        size = file.stat().st_size
        expect(size < LARGEST, f"{file.name} has {size} bytes")
        print(f"{file.relative_to(ROOT)} {size // 1000} KB")


def each(pages, pattern, where=None):
    for page in pages.values():
        page.says(pattern, where)


def served(pages):
    for page in pages.values():
        eventually("many requests", lambda page=page: expect("last 100" in page.text("#requests"), page.text("#requests")))


def main():
    with Fleet(5) as fleet, chromium() as browser:
        size = {"viewport": {"width": 1060, "height": 800}}
        pages = {scheme: Page(browser, fleet.url, color_scheme=scheme, **size) for scheme in ("light", "dark")}
        each(pages, "^● Healthy: All 5")
        # Something to tell: one has left and come back.
        fleet.tell("stop node4")
        each(pages, "All 4 nodes serving")
        fleet.tell("add")
        served(pages)
        each(pages, "^● Healthy: All 5")
        shoot(pages, "healthy")
        follower = [node["name"] for node in fleet.get("ips.json")["nodes"] if not node["leader"]]
        # The testbed waits for all who are up to serve: the mark comes after.
        fleet.tell(f"kill {follower[1]}")
        fleet.mark(follower[0], "kernel update")
        each(pages, "^◐ Changing: 3 of 4 nodes serving, 1 draining")
        for page in pages.values():
            page.lists(f"{follower[1]} lost", "#gone li")
            page.lists(f"{follower[0]} marked", "#events li")
        Clock.wait(3)
        shoot(pages, "changing")
        fleet.unmark(follower[0])
        fleet.tell(f"start {follower[1]}")
        each(pages, "^● Healthy: All 5")
        for page in pages.values():
            page.lists(f"{follower[1]} joined", "#events li")
        fleet.tell("stop etcd", until="etcd stopped")
        each(pages, "^◷ Stale")
        each(pages, r"\([2-9]\d s\)", "#warning")
        shoot(pages, "stale")
        fleet.tell("start etcd")
        each(pages, "^● Healthy: All 5")
        for page in pages.values():
            page.answer("ips.json", EMPTY)
            page.answer("history.json", ALL_GONE)
        each(pages, "^✕ Down: No node is registered")
        for page in pages.values():
            page.lists("nobody leads", "#events li")
        shoot(pages, "empty")


if __name__ == "__main__":
    sys.exit(main())
