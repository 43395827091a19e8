"""How the lab's cards look: in JupyterLab by its own colours, in the book by the book's, elsewhere by plain ones."""

from __future__ import annotations


def _theme(jupyter: str, book: str, plain: str) -> str:
    """A colour: JupyterLab's variable, else the book's, else a value."""
    return f"var(--jp-{jupyter},var(--pst-color-{book},{plain}))"


INK = _theme("content-font-color1", "text-base", "#222")
QUIET = _theme("content-font-color2", "text-muted", "#595959")
PAPER = _theme("layout-color1", "background", "#fff")
SHADE = _theme("layout-color2", "surface", "#f3f3f3")
LINE = _theme("border-color1", "border", "#c4c4c4")
ACCENT = _theme("brand-color1", "primary", "#0072b2")
MONO = "var(--jp-code-font-family,var(--pst-font-family-monospace,monospace))"

# Only what is chosen stays: the other answers can be neither clicked nor tabbed to. A browser that does not know
# `:has` shows the answer at once, which is better than never.
CARD = f"""
.sevlab-card{{border:1px solid {LINE};border-left:4px solid {ACCENT};border-radius:4px;padding:12px 16px;margin:6px 0;
max-width:46em;color:{INK};background:{PAPER};font-size:14px;line-height:1.5}}
.sevlab-card fieldset{{border:0;margin:0;padding:0;min-width:0}}
.sevlab-card legend{{padding:0;margin:0 0 10px;font-size:inherit;font-weight:600;float:none;width:auto;color:inherit}}
.sevlab-card .answers{{display:flex;flex-wrap:wrap;gap:8px}}
.sevlab-card label{{display:inline-flex;align-items:center;gap:8px;margin:0;padding:5px 14px 5px 10px;cursor:pointer;
border:1px solid {LINE};border-radius:16px;background:{SHADE};color:inherit}}
.sevlab-card label:hover{{border-color:{ACCENT}}}
.sevlab-card label:has(:focus-visible){{outline:2px solid {ACCENT};outline-offset:2px}}
.sevlab-card input{{margin:0;accent-color:{ACCENT}}}
.sevlab-card p{{margin:10px 0 0;color:inherit}}
.sevlab-card .wait{{color:{QUIET};font-size:13px}}
.sevlab-card .reveal,.sevlab-card .you{{display:none}}
section.sevlab-card div.reveal pre{{margin:10px 0 0;padding:8px 12px;overflow-x:auto;background:{SHADE};color:inherit;
white-space:pre;border:0;border-radius:3px;font:12.5px/1.45 {MONO}}}
.sevlab-card:has(:checked) .wait{{display:none}}
.sevlab-card:has(:checked) .reveal{{display:block}}
.sevlab-card label:has(:checked){{border-color:{ACCENT};font-weight:600}}
.sevlab-card:has(:checked) label:not(:has(:checked)){{opacity:.6;pointer-events:none}}
.sevlab-card:has(:checked) input:not(:checked){{display:none}}
""" + "".join(f".sevlab-card:has(label:nth-child({n}) :checked) .you:nth-child({n}){{display:inline}}\n" for n in range(1, 6)) + """
@supports not selector(:has(a)){.sevlab-card .reveal{display:block}}
"""
