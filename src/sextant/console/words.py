"""What the pages say, in each language: one catalogue a language, keys with sentences.

Sentences stand in `words/en.toml` and `words/zh.toml`; `{name}` is put in. Neighbour: `pages.py`.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
NAMES: Mapping[Language, str] = {"en": "English", "zh": "中文"}


class Words:
    """The sentences of one language."""

    def __init__(self, language: Language, sentences: Mapping[str, str]) -> None:
        self.language = language
        self._sentences = sentences

    def __call__(self, key: str, /, **values: object) -> str:
        """The sentence of `key` with `values` put in. Raises KeyError for a key that no catalogue has."""
        return self._sentences[key].format_map(values)

    def maybe(self, key: str, /, **values: object) -> str:
        """As above; empty for a key that is not there: for codes that others make."""
        found = self._sentences.get(key)
        return found.format_map(values) if found is not None else ""


@functools.cache
def words_of(language: Language) -> Words:
    """The catalogue of a language, read once."""
    return Words(language, read_sentences(language))


def read_sentences(language: Language) -> dict[str, str]:
    """The sentences of a language by their whole keys, as `keys.title`."""
    text = resources.files("sextant.console").joinpath("words", f"{language}.toml").read_text("utf-8")
    return {
        f"{section}.{key}": sentence
        for section, sentences in tomllib.loads(text).items()
        for key, sentence in sentences.items()
    }


def preferred(accept_language: str) -> Language:
    """The language of ours that an `Accept-Language` header likes best; English where it likes neither."""
    best, found = 0.0, LANGUAGES[0]
    for part in accept_language.split(",")[:20]:
        tag, _, quality = part.strip().partition(";q=")
        language = tag.partition("-")[0].lower()
        try:
            liked = float(quality or 1)
        except ValueError:
            continue
        if language in LANGUAGES and liked > best:
            best, found = liked, next(one for one in LANGUAGES if one == language)
    return found
