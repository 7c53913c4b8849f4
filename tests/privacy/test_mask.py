"""Tokens given out and put back, whatever the text and however it is cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sextant.privacy.detector import Detector
from sextant.privacy.mask import Vault, literal_tokens, mask
from sextant.privacy.restore import FORMS, Restorer, Tokens

DETECTOR = Detector()
PROMPT = "张伟 11010519491231002X，手机 13800138000，又说 138 0013 8000，邮箱 a@qq.com；再次 13800138000"


def masked(text: str) -> tuple[str, Vault]:
    vault = Vault(literal_tokens([text]))
    return mask(text, DETECTOR.find(text), vault), vault


def test_one_value_has_one_token_and_its_other_spelling_a_letter():
    said, _ = masked(PROMPT)
    assert said == "张伟 <CN_ID_1>，手机 <PHONE_1>，又说 <PHONE_1b>，邮箱 <EMAIL_1>；再次 <PHONE_1>"


def test_a_token_that_the_text_holds_already_stays_itself():
    text = "print `<PHONE_1>` and `<PHONE_2b>` literally; my phone is 13800138000"
    said, vault = masked(text)
    assert said == "print `<PHONE_1>` and `<PHONE_2b>` literally; my phone is <PHONE_2>"
    assert Tokens(vault.values).restore(said) == text


def test_more_spellings_than_letters_go_on_with_numbers():
    vault = Vault()
    tokens = {vault.token("PHONE", "1" + " " * n + "38") for n in range(40)}
    assert len(tokens) == 40
    assert all(FORMS.fullmatch(token) for token in tokens)


def test_a_token_of_nobody_is_left_alone():
    _, vault = masked(PROMPT)
    assert Tokens(vault.values).restore("<PHONE_7> <DIV_1> <CN_ID_1> &lt;PHONE_1&gt;") == (
        "<PHONE_7> <DIV_1> 11010519491231002X 13800138000"
    )


def test_what_was_put_back_is_not_read_again():
    assert Tokens({"A_1": "<A_2>", "A_2": "no"}).restore("<A_1>") == "<A_2>"


VALUES = {
    "SECRET_1": 'a"b\\c\nd',
    "PHONE_1": "13800138000",
    "PHONE_12": "13900139000",
    "PHONE_1b": "138 0013",
}


def test_json_gets_its_escapes():
    document = json.dumps({"key": "<SECRET_1>", "tel": ["<PHONE_12>"]})
    for form in (document, document.replace("<", "\\u003c").replace(">", "\\u003E")):
        restored = json.loads(Tokens(VALUES).restore(form, json=True))
        assert restored == {"key": VALUES["SECRET_1"], "tel": [VALUES["PHONE_12"]]}


ANSWER = (
    "call <PHONE_1>, <PHONE_12> or <PHONE_1b>, not <PHONE_13>; a<b && c<PHONE_ \\u003cPHONE_1\\u003e "
    "&lt;PHONE_1&gt; <<PHONE_1>> <SECRET_1"
)


def test_any_two_cuts_give_the_same_text():
    tokens = Tokens(VALUES)
    whole = tokens.restore(ANSWER)
    for one in range(len(ANSWER) + 1):
        for two in range(one, len(ANSWER) + 1):
            restorer = Restorer(tokens)
            pieces = (ANSWER[:one], ANSWER[one:two], ANSWER[two:])
            assert "".join(map(restorer.feed, pieces)) + restorer.flush() == whole, (one, two)


def test_characters_one_by_one_wait_for_one_token_at_most():
    tokens = Tokens(VALUES)
    restorer = Restorer(tokens)
    said = raw = ""
    for character in ANSWER:
        raw += character
        said += restorer.feed(character)
        behind = len(tokens.restore(raw)) - len(said)
        assert behind <= tokens.longest
        assert restorer.holds == (behind > 0)
    assert said + restorer.flush() == tokens.restore(ANSWER)


@pytest.mark.parametrize("text", ["a < b", "<div>", "<DIV", "&amp", "if x<PHONES", "\\u003e", "\\n", "x <P "])
def test_what_cannot_become_a_token_is_not_held(text):
    restorer = Restorer(Tokens(VALUES))
    assert restorer.feed(text) == text
    assert not restorer.holds


PIECES = st.sampled_from(
    [
        "13800138000",
        "138-0013-8000",
        "１３８００１３８０００",
        "1380\u200b0138000",
        "11010519491231002X",
        "a@qq.com",
        "<PHONE_1>",
        "&lt;PHONE_1&gt;",
        "\\u003CPHONE_1\\u003e",
        "<EMAIL_1>",
        "<",
        ">",
        " ",
        "，",
        "&lt;",
        "\\u003c",
        "\ud800",
        "password=Hunter2!x",
        "\u200b",
        "10.2.3.4",
    ]
)


@given(st.lists(PIECES | st.text(max_size=4), max_size=12).map("".join), st.integers(1, 7))
def test_masking_and_back_is_the_identity(text, step):
    said, vault = masked(text)
    tokens = Tokens(vault.values)
    assert tokens.restore(said) == text
    restorer = Restorer(tokens)
    pieces = [said[at : at + step] for at in range(0, len(said), step)]
    assert "".join(map(restorer.feed, pieces)) + restorer.flush() == text
    for value in vault.values.values():
        assert value in text
