"""How Sphinx builds the pages: `make docs`. The Python on them is executed while they are built."""

import re
from importlib.metadata import version as installed

project = "Scaling laws"
version = release = installed("scaling-laws")
copyright = ""
html_title = f"Scaling laws {release}"
html_theme = "furo"
html_show_copyright = False

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# A page that does not run is no page: nothing is kept from an earlier build, and an error ends it.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 60

autodoc_member_order = "bysource"
autodoc_typehints = "signature"


def as_restructured_text(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings here are plain text, and Sphinx reads reStructuredText: there `x` is code only if
    it is doubled, * and | have a meaning, and a list of `argument: what it is` needs bullets."""
    text = "\n".join(lines).replace("*", r"\*").replace("|", r"\|")
    text = re.sub(r"`([^`]+)`", lambda code: f"``{code[1]}``".replace("\\", ""), text)
    lines[:] = "\n\n".join(map(_with_bullets, text.split("\n\n"))).splitlines()


def _with_bullets(paragraph: str) -> str:
    """A paragraph with a bullet before each `argument: what it is`, if it is a list of these."""
    lines = paragraph.splitlines()
    indented = [line.startswith(" ") for line in lines]
    items = [bool(re.match(r"[`\w, ]+: ", line)) for line in lines]
    if not any(items) or (not any(indented) and not all(items)) or all(indented):
        return paragraph
    made: list[str] = []
    for line, inner, item in zip(lines, indented, items, strict=True):
        if inner:
            made.append("  " + line.strip())
        else:
            made += [f"* {line}"] if item else ["", line]
    return "\n".join(made)


def setup(app) -> None:
    app.connect("autodoc-process-docstring", as_restructured_text)
