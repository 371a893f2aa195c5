"""Builds the documentation into FOLDER/site, and checks that it is whole: `python .ci/build_docs.py FOLDER`.

In a copy, so that what the builder keeps and clears away is never the checkout's. A site cannot link to what is above
its root, as the pages do in the repository. So the copy has `results/` in the root, and one step less in these links.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
# From outside docs/: what pages link to or show.
SHOWN = (
    "results/*.png",
    "results/*.gif",
    "results/*.md",
    "results/*.html",
    "results/published/*",
    "results/lecture/*.png",
)
LINKED = ("experiments/published/data/README.md",)


def copy(folder: Path) -> None:
    """Everything that a build reads, into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("docs", "src", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for page in (folder / "docs").rglob("*.md"):
        page.write_text(re.sub(r"\]\(\.\./((\.\./)*results/)", r"](\1", page.read_text()))
    for name in ("mkdocs.yml", ".ci/equations.py"):
        shutil.copy(ROOT / name, folder)
    for pattern in (*SHOWN, *LINKED):
        for path in ROOT.glob(pattern):
            there = folder / "docs" / path.relative_to(ROOT)
            there.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".md":  # docs/ is the root there
                there.write_text(path.read_text().replace("](../../../docs/", "](../../../"))
            else:
                shutil.copy(path, there)


class _Page(HTMLParser):
    """The ids of a page, and what it links to and loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes one tag."""
        given = dict(attrs)
        self.ids |= {x for x in (given.get("id"), given.get("name")) if x}
        if tag == "a":
            self.links += [given["href"]] if given.get("href") else []
        elif tag == "link":
            self.loads += [given["href"]] if given.get("href") and given.get("rel") != "canonical" else []
        else:
            self.loads += [given["src"]] if given.get("src") else []


def problems(site: Path) -> list[str]:
    """Links and pictures of the built pages that lead nowhere, and what a page would load from the web."""
    pages = {path: _Page(path.read_text()) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        if name.name == "404.html":  # served for any address, so its links begin at the root of a host
            continue
        found += [f"{name} loads {url}" for url in page.loads if re.match(r"(https?:)?//", url)]
        for url in page.links + page.loads:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                found.append(f"{name}: {url} is not there")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids | {"__top"}:
                found.append(f"{name}: {url} has no such place")
    return found


def main() -> int:
    """Copies, builds and checks."""
    folder = Path(sys.argv[1]).resolve()
    copy(folder)
    # As a module, so that the folder, and with it `equations`, can be imported.
    built = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=folder, check=False)
    if built.returncode:
        return built.returncode
    found = problems(folder / "site")
    print(*found, sep="\n", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
