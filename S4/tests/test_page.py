"""The committed notebook as a reader sees it: converted to HTML, in a real browser."""

import html
import json
import re
import subprocess

import nbconvert
import pytest

from S4.notebook_file import NOTEBOOK

GITHUB_WIDTH, PHONE_WIDTH = 900, 390  # pixels

# First in the page: keep what goes wrong. A failed image is an error event, too.
LISTEN = """<script>
window.problems = [];
addEventListener("error", e => problems.push(e.message || e.target.outerHTML), true);
console.error = (...parts) => problems.push(parts.join(" "));
</script>"""
# Last in the page: measure, and tell the frame around it.
MEASURE = """<script>
addEventListener("load", () => {
  const width = document.documentElement.clientWidth;
  const sticksOut = e => e.getBoundingClientRect().right > width + 1
    || e.scrollWidth > e.clientWidth + 1;
  const named = list => [...list].map(e => `${e.tagName}: ${e.innerText.slice(0, 60)}`);
  const within = selector =>
    named([...document.querySelectorAll(selector)].filter(sticksOut));
  const links = [...document.querySelectorAll('a[href^="#"]:not(.anchor-link)')];
  parent.postMessage(JSON.stringify({
    width,
    problems,
    page: document.documentElement.scrollWidth,
    text: within("h1, h2, h3, p, ul, ol, table"),
    outputs: within("pre"),
    images: [...document.images].filter(i => !i.complete || !i.naturalWidth).length,
    drawn: document.images.length,
    links: named(links),
  }), "*");
});
</script>"""
FRAME = """<body><iframe src="page.html" style="width: %dpx; height: 2000px; border: 0">
</iframe><script>addEventListener("message", e => document.title = e.data)</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The folder of the notebook's page; it needs nothing from the network."""
    scripts = "mathjax_url", "require_js_url", "jquery_url", "mermaid_js_url"
    exporter = nbconvert.HTMLExporter(**dict.fromkeys(scripts, "data:text/javascript,"))
    text, _ = exporter.from_filename(str(NOTEBOOK))
    text = text.replace("<head>", f"<head>{LISTEN}", 1)
    head, _, tail = text.rpartition("</body>")
    folder = tmp_path_factory.mktemp("page")
    (folder / "page.html").write_text(f"{head}{MEASURE}</body>{tail}", "utf-8")
    return folder


@pytest.fixture(scope="module")
def seen(page, chromium):
    """A function: what the browser finds when the page is so many pixels wide."""

    def seen(width):
        frame = page / f"{width}.html"
        frame.write_text(FRAME % width, "utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        options += [
            "--virtual-time-budget=20000",
            f"--user-data-dir={page / 'profile'}",
        ]
        command = [chromium, *options, frame.as_uri()]
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", timeout=120
        )
        title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
        assert title, f"the browser said nothing: {done.stderr[-2000:]}"
        return json.loads(html.unescape(title[1]))

    return seen


@pytest.mark.parametrize("width", [GITHUB_WIDTH, PHONE_WIDTH])
def test_all_is_there_and_nothing_sticks_out(seen, width):
    found = seen(width)
    assert found["page"] <= found["width"] <= width
    assert found["problems"] == [] == found["text"]
    assert found["links"] == []  # on GitHub and in Colab they lead nowhere
    assert found["images"] == 0 and found["drawn"] >= 10
    assert found["outputs"] == [] or width == PHONE_WIDTH
