"""A bound on guessing the token.

Counted are different wrong tokens, by the network they come from: a program that repeats an old one guesses nothing.
Whoever has used up their guesses is told to wait, and no token from there is looked at meanwhile, the right one
included. People who are signed in notice nothing.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

LOG = logging.getLogger("ilp.service")

MOST = 10
"""Different wrong tokens from one network within ``SECONDS``."""

SECONDS = 60.0
NETWORKS = 4096
"""Networks that are remembered; of more, those that were wrong longest ago are forgotten."""


class Guesses:
    """Wrong tokens of the last minute; used by one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Remember nothing yet.

        Args:
            clock: Seconds, never going back.
        """
        self._clock = clock
        # What was guessed wrongly may be another service's token, so that only a digest of it is kept.
        self._key = secrets.token_bytes(32)
        self._wrong: OrderedDict[str, dict[bytes, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._wrong)

    def wait(self, address: str) -> int:
        """Seconds until a token from this address is looked at; 0 when it is at once."""
        times = sorted(self._recent(_network(address)).values())
        return max(1, math.ceil(times[-MOST] + SECONDS - self._clock())) if len(times) >= MOST else 0

    def wrong(self, address: str, token: str) -> None:
        """A wrong token came from an address."""
        network = _network(address)
        recent = self._recent(network)
        digest = hashlib.blake2b(token.encode("utf-8", "replace"), key=self._key, digest_size=16).digest()
        recent.setdefault(digest, self._clock())
        self._wrong[network] = recent
        self._wrong.move_to_end(network)
        if len(self._wrong) > NETWORKS:
            self._wrong.popitem(last=False)
        if len(recent) == MOST:
            LOG.warning("%d wrong tokens came from %r; none from there is looked at for a while", MOST, network)

    def _recent(self, network: str) -> dict[bytes, float]:
        since = self._clock() - SECONDS
        return {digest: at for digest, at in self._wrong.get(network, {}).items() if at > since}


def _network(address: str) -> str:
    """Addresses that one caller has at once: all of an IPv6 network of 64 bits."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
