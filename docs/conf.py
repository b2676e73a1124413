"""Sphinx configuration of the website: ``make docs``.

The website is self-contained and can be read offline: the theme includes its fonts and scripts, and browsers render the
equations, which are MathML.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

from fednnunet import __version__

project = "FednnU-Net"
author = "the authors of FednnU-Net"
copyright = "the authors of FednnU-Net, Apache License 2.0"
version = release = __version__

extensions = ["myst_parser", "command_reference", "mathml", "repository_links"]
exclude_patterns = ["_extensions"]
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4
html_math_renderer = "mathml"
nitpicky = True
smartquotes = False  # quotes and dashes are part of command lines

html_theme = "furo"
html_title = f"FednnU-Net {version}"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"top_of_page_buttons": []}
