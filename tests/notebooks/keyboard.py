"""A walk over a page with the keyboard alone, as a browser and a screen reader see it."""

REACHED = (
    'a[href], button, select, input, textarea, summary, [role="slider"], [contenteditable="true"]'
)
MARKED = f"""(root) => [...document.querySelectorAll(root)].flatMap((part) =>
  [...part.querySelectorAll('{REACHED}')].filter((one) => one.offsetParent && !one.disabled)
).map((one, place) => {{
  one.dataset.place = place;
  const labels = [...(one.labels || [])].map((label) => label.textContent);
  return [one.getAttribute("aria-label"), ...labels, one.textContent].join("").trim();
}})"""
FOCUSED = """() => {
  const one = document.activeElement, {outlineStyle, outlineWidth} = getComputedStyle(one);
  return [one.dataset.place, outlineStyle !== "none" && parseFloat(outlineWidth) >= 2];
}"""


def check_walk(page, root):
    """Every control has a name, Tab comes to each in its order, and one sees where it is."""
    names = page.evaluate(MARKED, root)
    assert len(names) > 3
    assert all(names), names
    page.evaluate("() => document.querySelector('[data-place=\"0\"]').focus()")
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")  # so that the browser knows it was the keyboard
    for place, name in enumerate(names):
        assert page.evaluate(FOCUSED) == [str(place), True], name
        page.keyboard.press("Tab")


def check_panel(page, number=".dysem-panel .noUi-handle"):
    """The same for an explorer's panel, its settings opened and folded again by Enter.

    Args:
        page: The page.
        number: Where a number is set, among the settings.
    """
    settings = page.locator(".dysem-panel button", has_text="Settings")
    settings.press("Enter")
    page.locator(number).last.wait_for()
    check_walk(page, ".dysem-panel")
    settings.press("Enter")
