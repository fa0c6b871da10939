"""Reports are looked at in a real browser."""

from tests.browser import browser, page

__all__ = ["browser", "page"]
