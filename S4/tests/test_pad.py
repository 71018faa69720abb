"""The pad to draw on, in a real browser: its answers are the network's."""

from itertools import pairwise

import pytest
import torch
from playwright.sync_api import sync_playwright
from torch import nn

import run
from S4.notebook_file import NOTEBOOK

PAGE = NOTEBOOK.with_name("draw.html")
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
STROKES = {  # from 0 to 1, to the right and down
    1: [[(0.5, 0.15), (0.45, 0.85)]],
    4: [[(0.3, 0.15), (0.25, 0.5), (0.75, 0.5)], [(0.65, 0.15), (0.6, 0.9)]],
    7: [[(0.25, 0.2), (0.75, 0.2), (0.45, 0.85)]],
}


@pytest.fixture(scope="module")
def browser(chromium):
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        yield playwright.chromium.launch(executable_path=chromium, args=options)


@pytest.fixture(params=["light", "dark"])
def page(browser, request):
    """The committed page on a phone."""
    context = browser.new_context(color_scheme=request.param, **PHONE)
    page, problems = context.new_page(), []
    page.on("pageerror", lambda error: problems.append(error))
    page.on("request", lambda r: None if r.url == PAGE.as_uri() else problems.append(r))
    page.goto(PAGE.as_uri())
    yield page
    assert problems == []
    context.close()


def says(page):
    return page.locator(".says").inner_text()


def draw(page, strokes, touch=False):
    """Draw on the pad as a hand does: with the mouse, or with a finger."""
    box, tool = page.locator(".draw").bounding_box(), page.mouse
    session = page.context.new_cdp_session(page)

    def finger(kind, *points):
        points = [{"x": x, "y": y} for x, y in points]
        event = {"type": f"touch{kind}", "touchPoints": points}
        session.send("Input.dispatchTouchEvent", event)

    for stroke in strokes:
        size = box["width"], box["height"]
        path = [(box["x"] + x * size[0], box["y"] + y * size[1]) for x, y in stroke]
        if touch:
            finger("Start", path[0])
            for (x, y), (a, b) in pairwise(path):
                for n in range(1, 9):
                    finger("Move", (x + (a - x) * n / 8, y + (b - y) * n / 8))
            finger("End")
        else:
            tool.move(*path[0])
            tool.down()
            for point in path[1:]:
                tool.move(*point, steps=8)
            tool.up()


def test_its_logits_are_torchs(nb, data_dir, page):
    images = nb.split_data(data_dir, "test")[1][0][:200]
    net = nb.load_net(NOTEBOOK.with_name("net.pt"))
    with torch.inference_mode():
        logits = nn.Sequential(*net.children())(images).flatten(1)
    grey = images.flatten(1).tolist()
    script = "all => all.map(document.querySelector('.digit-pad').logits)"
    difference = torch.tensor(page.evaluate(script, grey)) - logits
    assert difference.abs().max() < 1e-3


@pytest.mark.parametrize("touch", [False, True])
def test_what_is_drawn_is_read_and_a_key_clears_it(page, touch):
    assert says(page) == "Draw a digit."
    for digit, strokes in STROKES.items():
        draw(page, strokes, touch)
        assert says(page) == f"It is taken for a {digit}."
        shares = page.locator(".right span").all_inner_texts()
        assert len(shares) == 10 and shares[digit] != "0 %"
        page.keyboard.press("Escape")
        assert says(page) == "Draw a digit."


def test_it_fits_a_phone_and_can_be_read_in_light_and_dark(page):
    draw(page, STROKES[7])
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["viewport"]["width"]
    script = """() => {
      const of = (e, name) => getComputedStyle(e)[name].match(/[\\d.]+/g).map(Number);
      const text = of(document.querySelector(".says"), "color");
      const canvas = document.createElement("div");
      canvas.style.background = "Canvas"; document.body.append(canvas);
      const back = of(canvas, "backgroundColor");
      const light = ([r, g, b]) => (0.2 * r + 0.7 * g + 0.1 * b) / 255;
      return Math.abs(light(text) - light(back));
    }"""
    assert page.evaluate(script) > 0.7


def test_the_page_is_made_of_the_committed_weights(nb, notebook):
    text = PAGE.read_text("utf-8")
    assert text == run.pad_page(NOTEBOOK.with_name("net.pt"))
    assert len(text.encode()) < 200_000 and len(nb.PAD.encode()) < 10_000
    assert "http" not in text
    (cell,) = (c for c in notebook.cells if "drawpad" in c.metadata.get("tags", []))
    page, still = (output["data"] for output in cell.outputs)
    assert page["text/html"] in text and "image/png" in still


def test_a_network_that_the_page_cannot_compute_is_refused(nb):
    class Sum(nb.Net):
        def forward(self, images):
            return super().forward(images) + super().forward(images.flip(3))

    with pytest.raises(ValueError, match="follow one another"):
        nb.DrawPad(Sum(0.0))
