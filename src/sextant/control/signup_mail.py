"""What strangers who sign up are written, in their language.

Nothing that the stranger gave stands in it but the address it goes to: whoever signs another up could send
words of their own to anybody. The token stands behind a `#`, which no browser sends to any server.
Neighbours: `signup.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage

import msgspec

from sextant.base.errors import BadRequest
from sextant.store.accounts_sign_ups import Asked

LANGUAGES = ("en", "zh")
CONFIRM_PATH = "/portal/confirm"


class _Words(msgspec.Struct, frozen=True):
    subject: str
    confirm: str
    known: str


_WORDS: Mapping[str, _Words] = {
    "en": _Words(
        "Your sign-up",
        "Somebody, probably you, wants to open an account with this address at\n\n    {url}\n\n"
        "To go on, open\n\n    {url}{path}#{token}\n\n"
        "or enter this token there:\n\n    {token}\n\n"
        "It is good once, for 24 hours. If you did not ask for this, do nothing: no account is made.\n",
        "Somebody, probably you, wants to open an account with this address at\n\n    {url}\n\n"
        "There is an account with it already, and nothing was changed. Sign in there; whoever gave you the\n"
        "account can help with a lost password. If you did not ask for this, do nothing.\n",
    ),
    "zh": _Words(
        "您的注册",
        "有人（可能是您本人）希望用此邮箱地址在以下网站开通账户：\n\n    {url}\n\n"
        "如需继续，请打开：\n\n    {url}{path}#{token}\n\n"
        "或在该页面输入以下令牌：\n\n    {token}\n\n"
        "令牌只能使用一次，24 小时内有效。如果不是您本人操作，请忽略此邮件，不会创建任何账户。\n",
        "有人（可能是您本人）希望用此邮箱地址在以下网站开通账户：\n\n    {url}\n\n"
        "该地址已有账户，未做任何更改。请直接登录；如忘记密码，请联系为您开通账户的人。\n"
        "如果不是您本人操作，请忽略此邮件。\n",
    ),
}


def sign_up_message(asked: Asked, language: str, *, url: str, sender: str) -> EmailMessage:
    """The message to an address that was given, whether or not it is known. Raises BadRequest for one that
    no mail can be sent to."""
    words = _WORDS[language]
    message = EmailMessage()
    try:
        message["To"] = Address(addr_spec=asked.email)
    except (ValueError, MessageError):
        raise BadRequest(f"no e-mail can be sent to {asked.email[:80]}", field="email") from None
    message["From"] = sender
    message["Subject"] = words.subject
    message["Auto-Submitted"] = "auto-generated"
    text = words.known if asked.known else words.confirm
    message.set_content(text.format(url=url, path=CONFIRM_PATH, token=asked.secret))
    return message
