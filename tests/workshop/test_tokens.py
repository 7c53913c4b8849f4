"""The shipped tokenizer: any input comes back, digits stand alone, a word has the same tokens wherever it
stands.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import HF

from sextant.workshop.nano import pack, template, tokens
from sextant.workshop.nano.curriculum import Sample

TOKENIZER = tokens.load(HF)


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False).ids)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_any_text_comes_back(text):
    assert TOKENIZER.decode(ids(text), skip_special_tokens=False) == text


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_have_tokens(data):
    text = data.decode("utf-8", "replace")
    assert TOKENIZER.decode(ids(text), skip_special_tokens=False) == text


def test_every_byte_is_a_token():
    from tokenizers.pre_tokenizers import ByteLevel

    assert all(TOKENIZER.token_to_id(char) is not None for char in ByteLevel.alphabet())


def test_size_and_markers():
    assert TOKENIZER.get_vocab_size() == tokens.VOCABULARY
    for marker in (*template.CONTROL_TOKENS, *template.VISIBLE_TOKENS):
        assert ids(marker) == [TOKENIZER.token_to_id(marker)]


def test_digits_stand_alone():
    assert len(ids("8301947")) == 7


@pytest.mark.parametrize("word", ["Paris", "zorbville", "北京", "囲"])
def test_a_word_has_the_same_tokens_wherever_it_stands(word):
    inside = ids(word)
    for before, after in (
        ("", "."),
        ("in ", "?"),
        ('{"city": "', '"}'),
        ("- ", ": x"),
        ("(", ")"),
        ("=", "\n"),
    ):
        whole = ids(before + word + after)
        assert any(whole[i : i + len(inside)] == inside for i in range(len(whole))), (before, after)


def test_the_shipped_template_is_the_source():
    assert (HF / "chat_template.jinja").read_text(encoding="utf-8") == template.source()


def test_the_loss_falls_on_answers_alone():
    messages = [
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "3+3"},
    ]
    sample = Sample(template.render(messages), template.completion(thinking="t", content="6"))
    ((all_ids, mask),) = pack.encode(TOKENIZER, [sample])
    taught = TOKENIZER.decode([i for i, m in zip(all_ids, mask, strict=True) if m], skip_special_tokens=False)
    assert taught == f"2{template.EOS}t{template.END_THINK}6{template.EOS}"
    ((_, mask),) = pack.encode(TOKENIZER, [sample], earlier=False)
    assert sum(mask) == len(ids(sample.completion))


def test_rows_hold_whole_texts():
    weights = [1.0] * 13
    stream = pack.rows(HF, "rows", 256, weights)
    bos, eos = TOKENIZER.token_to_id(template.BOS), TOKENIZER.token_to_id(template.EOS)
    pad = TOKENIZER.token_to_id(template.PAD)
    for _ in range(40):
        row, mask = next(stream)
        assert len(row) == len(mask) == 256
        text = [i for i in row if i != pad]
        assert row[: len(text)] == text, "padding stands at the end"
        assert text[0] == bos
        assert text[-1] == eos
        assert not any(m for i, m in zip(row, mask, strict=True) if i in (bos, pad))
