"""The status page is looked at in a real browser, and the book is kept in a real PostgreSQL."""

from tests.browser import browser, page
from tests.deploy.conftest import databases, postgresql

__all__ = ["browser", "databases", "page", "postgresql"]
