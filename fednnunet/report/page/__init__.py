"""The report page: one HTML file that shows a run, and needs nothing else.

Its contents are a function of the run's events: `parts_of` makes parts of them, `write_page` writes parts as a page.
"""

from fednnunet.report.page.part import Figure, Part
from fednnunet.report.page.parts import parts_of
from fednnunet.report.page.pictures import pictures_part
from fednnunet.report.page.rendering import render_page, write_page
from fednnunet.report.page.table import html_table

__all__ = ["Figure", "Part", "html_table", "parts_of", "pictures_part", "render_page", "write_page"]
