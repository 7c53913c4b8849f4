"""The tokenizer: byte-level BPE of 4096 entries, so that any input works, split as llama.cpp's `qwen2`
splits.

Digits stand alone. Merges are learned on a finer split than the one used afterwards (letters apart from what
precedes them, each Chinese character alone), so that a word has the same tokens wherever it stands: copying a
value out of a text then is copying tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sextant.workshop.nano import template
from sextant.workshop.nano.curriculum import samples

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCABULARY = 4096
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = 60_000
_MARKERS = (*template.CONTROL_TOKENS, *template.VISIBLE_TOKENS)


def _without_markers(text: str) -> str:
    for marker in _MARKERS:
        text = text.replace(marker, "\n")
    return text


def train(count: int = TEXTS) -> Tokenizer:
    """Learn the merges from the training stream."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fine = Regex(r"\p{Han}|[a-zA-Z]+|\p{N}|[^\p{L}\p{N}\s]+|\s+|\p{L}")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(fine, "isolated"), byte_level])
    stream = samples("tokenizer")
    texts: Iterable[str] = (
        _without_markers(s.prompt + s.completion) for s, _ in zip(stream, range(count), strict=False)
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(_MARKERS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=20,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), byte_level]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t in template.CONTROL_TOKENS]
    )
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in template.VISIBLE_TOKENS])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokenizer, its configuration and the chat template as transformers reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": template.BOS,
        "eos_token": template.EOS,
        "pad_token": template.PAD,
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (folder / "chat_template.jinja").write_text(template.source(), encoding="utf-8")


def marker_id(tokenizer: Tokenizer, marker: str) -> int:
    """The id of one of the template's markers. Raises ValueError when the tokenizer is another's."""
    found = tokenizer.token_to_id(marker)
    if found is None:
        raise ValueError(f"the tokenizer has no token {marker!r}; use the one that the tokenizer verb wrote")
    return int(found)


def load(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))
