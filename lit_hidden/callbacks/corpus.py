"""A text in documents, split so that no training text stands in the test.

The documents are the topics of `pydoc_data.topics`; or, if the environment variable DATA names a `.txt` file, pieces of
that file. Documents half of whose 40-grams stand in longer ones are dropped, those that share a 40-gram are linked, and
whole clusters are held out for the test.
"""

import hashlib
import re
from functools import cache
from typing import Any

import numpy as np

from lit_hidden.texts import read as read_text

Symbols = np.ndarray[Any, np.dtype[np.int64]]

GRAM, PIECE = 40, 4000  # characters that documents may not share; and of a piece of one's own text, at least
HELD_OUT = 0.11  # of the characters, at most
SYMBOLS = 128  # the most frequent characters of the training text, and 0 for all others


def source() -> tuple[str, list[str]]:
    """Give the SHA-256 of the text, 16 digits, and its documents; ValueError: DATA names a file that cannot be read."""
    sha, documents = read_text()
    if len(documents) == 1:  # a file: each piece ends with a paragraph; where that is too long, with a line, or a word
        ends, few = (r"\n\s*\n|\Z", r"\n", r"\s"), f"{{{PIECE},{2 * PIECE}}}?"
        pieces = "|".join([f".{few}(?:{end})" for end in ends] + [f".{{1,{PIECE}}}"])
        documents = re.findall(pieces, documents[0], re.DOTALL) or documents
    return sha, documents


def grams(text: str) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Hash all runs of 40 characters of a text, uint64 `(len(text) - 39,)`."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64)
    found = np.zeros(max(len(codes) - GRAM + 1, 0), np.uint64)
    for first in range(GRAM):
        found = found * np.uint64(1_000_003) + codes[first : first + len(found)]
    return found


def split(documents: list[str]) -> tuple[list[str], list[str]]:
    """Part documents into those to train on and those to test on, which share no 40 characters."""
    documents = sorted(documents, key=len, reverse=True)
    found = [grams(text) for text in documents]
    unique, numbers = np.unique(np.concatenate(found), return_inverse=True)
    owner = np.full(len(unique), -1)  # the longest document with a gram
    cluster, kept = dict[int, int](), []
    for n, own in enumerate(np.split(numbers, np.cumsum([len(each) for each in found])[:-1])):
        if not len(own) or (owner[own] >= 0).mean() > 0.5:
            continue
        linked = {cluster[other] for other in np.unique(owner[own]).tolist() if other >= 0}
        cluster = {m: n if c in linked else c for m, c in cluster.items()} | {n: n}
        owner[own[owner[own] < 0]] = n
        kept.append(n)
    clusters = [[documents[m] for m in kept if cluster[m] == c] for c in sorted(set(cluster.values()))]
    # In an order that follows from the texts alone; the largest cluster is trained on.
    clusters.sort(key=lambda texts: hashlib.sha256(texts[0].encode()).digest())
    largest = max(clusters, key=lambda texts: sum(map(len, texts)), default=[])
    room, train, test = HELD_OUT * sum(len(text) for texts in clusters for text in texts), list(largest), list[str]()
    for texts in (texts for texts in clusters if texts is not largest):
        taken = (size := sum(map(len, texts))) <= room
        room -= taken * size
        (test if taken else train).extend(texts)
    if not test:
        raise ValueError(
            f"{len(documents)} document(s) in {len(clusters)} cluster(s) leave none to test on; give more text that "
            "does not repeat"
        )
    return train, test


@cache
def read(sha256: str) -> tuple[str, Symbols, Symbols]:
    """Give the alphabet of the text with this hash, and its symbols: int64, of training and of test.

    ValueError: another text is there, or too much of it lies outside the alphabet.
    """
    there, documents = source()
    if there != sha256:
        raise ValueError(
            f"the run is about the text {sha256}, and here is {there}; pydoc_data.topics differs between releases of "
            "Python, and DATA names a text of your own"
        )
    train, test = ("\n\n".join(part) for part in split(documents))
    count = sorted(set(train), key=lambda character: (-train.count(character), character))
    alphabet = "".join(sorted(count[: SYMBOLS - 1]))
    number = {character: n for n, character in enumerate(alphabet, 1)}
    one, other = (np.array([number.get(character, 0) for character in part]) for part in (train, test))
    if (outside := float((np.concatenate([one, other]) == 0).mean())) > 0.01:
        raise ValueError(f"{outside:.0%} of the characters lie outside of {SYMBOLS - 1}; at most 1% may")
    return alphabet, one, other


def windows(symbols: Symbols, length: int) -> tuple[Symbols, Symbols]:
    """Cut a text `(M,)` into windows that do not overlap and the characters that follow, both `(N, length)`."""
    count = (len(symbols) - 1) // length
    inputs, targets = (symbols[shift:][: count * length].reshape(count, length) for shift in (0, 1))
    return inputs, targets


def told(alphabet: str, symbols: list[int]) -> str:
    """Give the characters of symbols; what lies outside the alphabet is a replacement character."""
    return "".join("\N{REPLACEMENT CHARACTER}" if n == 0 or n > len(alphabet) else alphabet[n - 1] for n in symbols)
