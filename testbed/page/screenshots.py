"""The pictures of docs/images: a real fleet, healthy, changing and stale; empty is written here, for no fleet that
answers has no node. Light and dark, each under 150 KB."""

import sys

from browser import chromium
from check import Page, expect
from fleet import ROOT, Clock, Fleet, eventually

FOLDER = ROOT / "docs/images"
LARGEST = 150_000


def shoot(pages, name):
    for scheme, page in pages.items():
        # A caret or a hovered button would make every picture another one.
        page.page.mouse.move(0, 0)
        file = FOLDER / (f"page-{scheme}.png" if name == "healthy" else f"page-{name}-{scheme}.png")
        page.page.screenshot(path=file, full_page=True)
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
        size = {"viewport": {"width": 1100, "height": 800}}
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
        fleet.mark(follower[0], "kernel update")
        fleet.tell(f"kill {follower[1]}")
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
            page.answer("ips.json", lambda says: {**says, "revision": says["revision"] + 1, "count": 0, "ips": [], "nodes": []})
            page.answer("history.json", lambda says: {**says, "events": []})
        each(pages, "^✕ Down: No node is registered")
        shoot(pages, "empty")


if __name__ == "__main__":
    sys.exit(main())
