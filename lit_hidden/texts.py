"""The text that language models read. Without torch: planning names runs by its digest."""

import hashlib
import os
from pathlib import Path


def read() -> tuple[str, list[str]]:
    """Give the SHA-256 of the text, 16 digits, and its documents.

    They are the topics of `pydoc_data.topics`; or the one `.txt` file that the environment variable DATA names.
    ValueError: it cannot be read.
    """
    if (path := os.environ.get("DATA", "")).endswith(".txt"):
        try:
            documents = [Path(path).read_text(encoding="utf-8-sig")]  # a byte order mark is no character
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"DATA={path} cannot be read: {error}; give a text in UTF-8") from error
    else:
        from pydoc_data.topics import topics

        documents = [topics[name] for name in sorted(topics)]
    return hashlib.sha256("\n".join(documents).encode()).hexdigest()[:16], documents
