"""How `make docs` builds the site: the chapters executed, the guides, and the API from docstrings.

The repository is the source folder, so that links between chapters, guides and README hold both
here and on a code host. Everything that a page needs lies in the site: it can be read offline.
"""

import os
import re
import shutil
import sys
from importlib.metadata import files
from pathlib import Path

from docutils import nodes

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "docs"))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["PYTHONPATH"] = str(ROOT)

import covered  # noqa: E402

import minidiff  # noqa: E402

project = "minidiff"
author = "the minidiff authors"
copyright = author
release = version = minidiff.__version__

root_doc = "docs/index"
include_patterns = ["docs/**", "chapters/*.ipynb", "chapters/README.md", "benchmarks/README.md"]
exclude_patterns = ["docs/_build", "docs/_static", "docs/_templates"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "numpydoc",
    "sphinx_copybutton",
]
suppress_warnings = ["myst.header"]

# Chapters
nb_execution_mode = "force"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_number_source_lines = False
nb_render_markdown_format = "myst"
myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3

# API reference
templates_path = [str(ROOT / "docs" / "_templates")]
autosummary_generate = True
autosummary_ignore_module_all = False
default_role = "code"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "undoc-members": True}
numpydoc_show_class_members = False
python_use_unqualified_type_names = True

# Look
html_theme = "pydata_sphinx_theme"
html_title = "minidiff"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "logo": {"text": "minidiff"},
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "article_footer_items": [],
    "footer_start": ["copyright"],
    "footer_end": [],
}
copybutton_exclude = ".linenos, .gp, .go"

# MathJax that needs no other file and no network; the tag (1.7) is written out in the source.
mathjax_path = "tex-svg.js"
mathjax3_config = {
    "tex": {"tagSide": "right"},
    "svg": {"fontCache": "global"},
    "options": {"enableMenu": False},
}


def plain_text(app, what, name, obj, options, lines):
    """Docstrings hold formulas in plain text: in them a star is a product and a bar a condition.

    A block that is indented before the first section is a formula or code, shown as it stands.
    """
    shown, block, prose = [], False, True
    for line in lines:
        prose = prose and not re.fullmatch(r"-{3,}", line)
        indented = line.startswith("    ")
        if prose and indented and not block and not any(shown[-1:]):
            block = True
            if not any(text.endswith("::") for text in shown[-2:]):
                shown += ["::", ""]
        block = block and (indented or not line)
        parts = re.split(r"(``.*?``|`.*?`)", line)
        parts[::2] = [re.sub(r"(?<!\\)[*|]", r"\\\g<0>", part) for part in parts[::2]]
        given_by_stars = re.match(r"\*{1,2}\w+( :|$)", line.strip())  # as numpydoc does
        shown.append(line if block or given_by_stars else "".join(parts))
    lines[:] = shown


def keep_tags(app, doctree):
    """Sphinx puts a formula of several lines into a `split`, where a tag is not allowed."""
    for node in doctree.findall(nodes.math_block):
        text = node.astext()
        if r"\tag" in text and r"\\" in text:
            node["no-wrap"] = node["nowrap"] = True
            node.children = [nodes.Text(rf"\[{text}\]")]


def write_coverage(app):
    """The table of what is covered where, from the tags of the cells."""
    folder = ROOT / "docs" / "_generated"
    folder.mkdir(exist_ok=True)
    (folder / "coverage.md").write_text(covered.page())


def copy_mathjax(app, exception):
    """Put MathJax (Apache-2.0) beside the other static files, from the package that brings it."""
    if exception is None and app.builder.format == "html":
        (script,) = (f for f in files("sphinx-mathjax-offline") if f.name == "tex-svg.js")
        shutil.copyfile(script.locate(), Path(app.outdir) / "_static" / script.name)
        (Path(app.outdir) / "index.html").write_text(
            '<!doctype html><meta charset="utf-8"><title>minidiff</title>\n'
            '<meta http-equiv="refresh" content="0; url=docs/index.html">\n'
            '<a href="docs/index.html">minidiff</a>\n'
        )


def setup(app):
    """Called by Sphinx."""
    app.connect("config-inited", lambda app, config: write_coverage(app))
    app.connect("doctree-read", keep_tags)
    app.connect("autodoc-process-docstring", plain_text, priority=100)  # before numpydoc
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
