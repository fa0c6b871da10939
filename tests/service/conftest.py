"""The status page is looked at in a real browser."""

from tests.browser import browser, page

__all__ = ["browser", "page"]
