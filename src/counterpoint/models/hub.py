"""Whether the hub can be asked, so that nobody waits for a client that tries again and again."""

from __future__ import annotations

import socket
import urllib.parse
import urllib.request

REACHED_S = 3.0  # for a first answer of the hub


def is_hub_reachable() -> bool:
    """Whether the hub answers at all, told within seconds. Behind a proxy only the hub's client can tell."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    address = urllib.parse.urlsplit(constants.ENDPOINT)
    if urllib.request.getproxies().get(address.scheme):
        return True
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname or "", port), timeout=REACHED_S).close()
    except OSError:
        return False
    return True
