"""An OpenID Connect provider on loopback: Authlib's authorization server behind Flask, signing real tokens.

What a test twists (claims, the key, the algorithm) is twisted where the ID token is made; everything else is
as the provider does it.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import flask
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import grants
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import UserInfo
from authlib.oidc.core.grants import OpenIDCode
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey
from werkzeug.serving import make_server

CLIENT_ID = "sextant"
CLIENT_SECRET = "of-the-test-provider"
Claims = dict[str, Any]


class Client:
    """The one registered client."""

    client_id = CLIENT_ID

    def __init__(self, redirect_url: str) -> None:
        self.redirect_url = redirect_url

    def get_client_id(self) -> str:
        return CLIENT_ID

    def get_default_redirect_uri(self) -> str:
        return self.redirect_url

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == self.redirect_url

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == CLIENT_SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return endpoint != "token" or method == "client_secret_basic"

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


class Code:
    """An authorization code and what it was given for."""

    def __init__(self, code: str, request: Any) -> None:
        data = request.payload.data
        self.code = code
        self.redirect_uri = request.payload.redirect_uri
        self.scope = request.payload.scope
        self.nonce = data.get("nonce")
        self.code_challenge = data.get("code_challenge")
        self.code_challenge_method = data.get("code_challenge_method")

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str | None:
        return self.nonce

    def get_auth_time(self) -> None:
        return None

    get_acr = get_amr = get_auth_time


class Provider:
    """The provider's state, which a test may change at any moment."""

    def __init__(self, redirect_url: str) -> None:
        self.client = Client(redirect_url)
        self.issuer = ""
        self.codes: dict[str, Code] = {}
        self.user: Claims = {
            "sub": "user-1",
            "email": "ann@example.com",
            "email_verified": True,
            "name": "Ann",
            "groups": ["ops"],
        }
        self.key: RSAKey | ECKey = _first_key()
        self.published = [self.key]
        self.twist: Callable[[Claims], Claims] = lambda claims: claims
        self.sign: Callable[[Claims], str] = self.signed
        self.key_fetches = 0

    def signed(self, claims: Claims) -> str:
        """As a provider signs: with its present key."""
        alg = "ES256" if isinstance(self.key, ECKey) else "RS256"
        return jwt.encode({"alg": alg, "kid": self.key.kid}, claims, self.key, [alg])

    def unsigned(self, claims: Claims) -> str:
        """The oldest trick: a token that says it needs no signature."""
        parts = [json.dumps(one).encode() for one in ({"alg": "none", "typ": "JWT"}, claims)]
        return ".".join(base64.urlsafe_b64encode(one).rstrip(b"=").decode() for one in parts) + "."

    def rotate(self) -> None:
        """A new key signs from now on, and both are published."""
        self.key = ECKey.generate_key("P-256", {"kid": f"key-{len(self.published) + 1}"})
        self.published = [*self.published, self.key]


@functools.cache
def _first_key() -> RSAKey:
    """One for all tests of a process: to find the primes takes longer than a test."""
    return RSAKey.generate_key(2048, {"kid": "key-1"})


@contextlib.contextmanager
def serving_provider(redirect_url: str) -> Iterator[Provider]:
    """The provider on a loopback port of its own."""
    provider = Provider(redirect_url)
    app = flask.Flask("provider")
    server = make_server("127.0.0.1", 0, app, threaded=True)
    provider.issuer = f"http://127.0.0.1:{server.server_port}"
    _add_routes(app, provider, _authorization_server(app, provider))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="provider")
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def _authorization_server(app: flask.Flask, provider: Provider) -> AuthorizationServer:
    class CodeGrant(grants.AuthorizationCodeGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic",)

        def save_authorization_code(self, code: str, request: Any) -> None:
            provider.codes[code] = Code(code, request)

        def query_authorization_code(self, code: str, client: Client) -> Code | None:
            return provider.codes.get(code)

        def delete_authorization_code(self, authorization_code: Code) -> None:
            provider.codes.pop(authorization_code.code)

        def authenticate_user(self, authorization_code: Code) -> Claims:
            return provider.user

    class IdToken(OpenIDCode):
        def exists_nonce(self, nonce: str, request: Any) -> bool:
            return False

        def resolve_client_private_key(self, client: Client) -> RSAKey | ECKey:
            return provider.key

        def get_client_algorithm(self, client: Client) -> str:
            return "ES256" if isinstance(provider.key, ECKey) else "RS256"

        def get_client_claims(self, client: Client) -> Claims:
            return {"iss": provider.issuer, "aud": [CLIENT_ID]}

        def generate_user_info(self, user: Claims, scope: str) -> UserInfo:
            return UserInfo(user)

        def encode_id_token(self, token: Claims, request: Any) -> str:
            made = super().encode_id_token(token, request)
            claims = jwt.decode(made, provider.key, [self.get_client_algorithm(request.client)]).claims
            return provider.sign(provider.twist(claims))

    server = AuthorizationServer(app, lambda _id: provider.client, lambda _token, _request: None)
    server.register_grant(CodeGrant, [IdToken(require_nonce=True), CodeChallenge(required=True)])
    return server


def _add_routes(app: flask.Flask, provider: Provider, server: AuthorizationServer) -> None:
    @app.get("/.well-known/openid-configuration")
    def discovery() -> Claims:
        return {
            "issuer": provider.issuer,
            "authorization_endpoint": f"{provider.issuer}/authorize",
            "token_endpoint": f"{provider.issuer}/token",
            "jwks_uri": f"{provider.issuer}/keys",
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            "response_types_supported": ["code"],
        }

    @app.get("/keys")
    def keys() -> Claims:
        provider.key_fetches += 1
        return KeySet(list(provider.published)).as_dict(private=False)

    @app.get("/authorize")
    def authorize() -> Any:
        grant = server.get_consent_grant(end_user=provider.user)
        return server.create_authorization_response(grant_user=provider.user, grant=grant)

    @app.post("/token")
    def token() -> Any:
        return server.create_token_response()
