"""Hides passwords and tokens in whatever is printed or kept."""

import re


def mask(text: str) -> str:
    """Return a text without the secrets of the URIs in it.

    >>> mask("can't reach postgresql://me:secret@host/db?password=x")
    "can't reach postgresql://***@host/db?password=***"
    """
    masked = re.sub(r"([a-z][a-z0-9+.\-]*://)[^/?#\s]*@", r"\1***@", text, flags=re.IGNORECASE)
    return re.sub(r"([?&][^=&\s]*(?:pass|pwd|secret|token|key)[^=&\s]*=)[^&#\s]*", r"\1***", masked, flags=re.IGNORECASE)
