"""The book: Sphinx with myst-nb. Its root is the folder above, so that the course and the book are the same files.

    make docs            builds it into notebooks/_build/html, without a network

Notebooks are run when the book is built, each from its seed; widgets stand in
the pages as pictures with their text (SEVLAB_STATIC).
"""

import os

import sevlab

os.environ["SEVLAB_STATIC"] = "1"
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("PYTHONHASHSEED", "0")

project = "sevlab"
author = "The sevlab authors"
project_copyright = "the sevlab authors; text CC BY 4.0, code Apache-2.0"
version = release = sevlab.__version__

extensions = ["myst_nb"]
root_doc = "index"
exclude_patterns = ["_build", "**.ipynb_checkpoints", ".book"]
templates_path: list[str] = []

# ------------------------------------------------------------- pages and notebooks

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"  # what is stored is less than a page shows, and a cache does not see that sevlab changed
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_kernel_rgx_aliases = {".*": "python3"}

# ------------------------------------------------------------- how it looks

html_theme = "pydata_sphinx_theme"
html_title = "sevlab"
html_static_path = ["static"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_sourcelink = False
html_sidebars = {"**": []}  # the course is short: its pages stand in the bar at the top
html_theme_options = {
    "logo": {"text": "sevlab"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "header_links_before_dropdown": 8,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 3,
    "article_header_start": [],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
