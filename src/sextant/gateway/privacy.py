"""What becomes of personal data in a prompt: by the tenant's policy it is masked, refused, let through, or
the request goes to a model that is cleared for it.

Part of flow 1 (serve), between the dialect and admission. Looked at is what goes to the engine, all of it; a
request in which nothing is found goes on as the bytes it came in. Neighbours: `prompt_strings.py` (where text
stands), `unmasking.py` (the way back), `sextant.privacy` (what personal data is).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from sextant.base.errors import BadRequest, Misconfigured, Unprocessable
from sextant.gateway.dialect import Call
from sextant.gateway.meters import Meters
from sextant.gateway.prompt_strings import refuse_token_ids, rewrite
from sextant.gateway.unmasking import Unmasking
from sextant.privacy.detector import Detector
from sextant.privacy.mask import Vault, literal_tokens, mask
from sextant.privacy.policy import check_policy
from sextant.privacy.restore import may_begin_tokens
from sextant.privacy.spans import BUILT_IN, OPT_IN, Span
from sextant.spec.policy import PrivacyAction, PrivacyPolicy

if TYPE_CHECKING:
    from sextant.gateway.router import ModelRoute
    from sextant.gateway.run import Run

LEAST_CHARS = 4
"""Shorter strings identify nobody."""
GUARDS = 4096
"""Policies kept ready."""
DETECTORS = 256
"""Detectors kept, some hundred KiB each."""
OWN_PATTERN = "PATTERN"
"""How the metric calls a tenant's own types."""
_encode = msgspec.json.Encoder().encode


class Guard:
    """One tenant's policy, ready for use."""

    def __init__(self, policy: PrivacyPolicy) -> None:
        """Raises BadRequest for a policy that cannot be used, Misconfigured for one without Presidio."""
        check_policy(policy)
        self.policy = policy
        known = (*BUILT_IN, *policy.opt_in, *policy.patterns)
        self._actions = {**policy.actions, **{t: policy.actions.get(t, policy.otherwise) for t in known}}
        wanted = [
            type_
            for type_ in (*BUILT_IN, *policy.opt_in)
            if type_ == "PRESIDIO" or self._actions[type_] != "allow"
        ]
        patterns = {
            name: pattern for name, pattern in policy.patterns.items() if self._actions[name] != "allow"
        }
        self.detector = _detector(tuple(wanted), tuple(patterns.items()))
        self.idle = not wanted and not patterns
        self.masks_all = {policy.otherwise, *self._actions.values()} == {"mask"}
        """Whether nothing that is found has another end than to be masked."""

    def action(self, type_: str) -> PrivacyAction:
        """What becomes of a finding of this type."""
        return self._actions.get(type_, self.policy.otherwise)


@functools.lru_cache(maxsize=DETECTORS)
def _detector(types: tuple[str, ...], patterns: tuple[tuple[str, str], ...]) -> Detector:
    """Tenants with the same wishes share one; so does a policy with its next snapshot."""
    return Detector(types, dict(patterns))


class Findings:
    """What was found in one request, string by string."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._by_text: dict[str, list[Span]] = {}
        self._clean: set[str] = set()
        self.counts: dict[str, int] = {}
        """How often each type occurs."""

    def look(self, text: str) -> str:
        """Remembers what is in `text`, and returns it unchanged."""
        if len(text) < LEAST_CHARS or text in self._clean:
            return text
        spans = self._by_text.get(text)
        if spans is None:
            spans = self._guard.detector.find(text)
            if not spans:
                self._clean.add(text)
                return text
            self._by_text[text] = spans
        self._add(spans)
        return text

    def _add(self, spans: list[Span]) -> None:
        counts = self.counts
        for span in spans:
            counts[span.type] = counts.get(span.type, 0) + 1

    def types(self, action: PrivacyAction) -> list[str]:
        """The types found that this is to become of."""
        return sorted(type_ for type_ in self.counts if self._guard.action(type_) == action)

    @property
    def vault(self) -> Vault:
        """An empty one that gives out no token which the request holds already."""
        return Vault(literal_tokens((*self._by_text, *self._clean)))

    def mask(self, text: str, vault: Vault) -> str:
        """`text` with what is to be masked in it replaced."""
        spans = self._by_text.get(text)
        if spans is None:
            return text
        return mask(text, [s for s in spans if self._guard.action(s.type) == "mask"], vault)

    def look_and_mask(self, text: str, vault: Vault) -> str:
        """Both at once, where all that is found is masked and no text can hold a token."""
        if len(text) < LEAST_CHARS:
            return text
        spans = self._guard.detector.find(text)
        if not spans:
            return text
        self._add(spans)
        return mask(text, spans, vault)


class Shield:
    """Applies the tenants' policies; one for a gateway worker."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._guards: dict[int, Guard] = {}

    def apply(
        self, run: Run, policy: PrivacyPolicy, call: Call, routes: Iterable[ModelRoute]
    ) -> tuple[Call, ModelRoute | None]:
        """The call as it may go to `run.route`, and None; or the call as it is and the route that it must
        take instead, one of `routes`, those of the caller. Sets `run.unmasking`.

        Raises BadRequest where the policy forbids what was found, Unprocessable where no model may see it or
        it cannot be looked at, Misconfigured for a policy that cannot be used. Never says what was found.
        """
        assert run.route is not None
        cleared = run.route.served.clears_personal_data
        if cleared and not policy.everywhere:
            return call, None
        guard = self._guard(policy)
        if guard.idle:
            return call, None
        refuse_token_ids(call.fields)
        findings = Findings(guard)
        if guard.masks_all and call.body is not None and not may_begin_tokens(call.body):
            vault = Vault()
            try:
                fields = rewrite(call.fields, lambda text: findings.look_and_mask(text, vault))
            finally:
                self._count(findings, guard)
            return self._masked(run, call, fields, vault), None
        rewrite(call.fields, findings.look)
        if not findings.counts:
            return call, None
        blocked = findings.types("block")
        routed = [] if cleared or blocked else findings.types("route")
        if not (routed and policy.everywhere):  # else it is looked at once more, on its new way
            self._count(findings, guard)
        if blocked:
            raise BadRequest(
                "The request holds personal data that this tenant's policy keeps back: "
                f"{', '.join(blocked)}. Take it out and send the request again.",
                field=_where(call),
                code="personal_data_blocked",
            )
        if routed:
            return call, _cleared_route(run.route, routes, routed)
        vault = findings.vault
        fields = rewrite(call.fields, lambda text: findings.mask(text, vault))
        return self._masked(run, call, fields, vault), None

    def _masked(self, run: Run, call: Call, fields: dict[str, Any], vault: Vault) -> Call:
        """`call` with these fields, and the way back made ready; the same call when they are its own."""
        if fields is call.fields:
            return call
        form = fields.get("response_format")
        asks_json = isinstance(form, dict) and form.get("type") in ("json_object", "json_schema")
        run.unmasking = Unmasking(vault.values, json=asks_json)
        run.headers.append((b"x-sextant-personal-data", b"masked"))
        return msgspec.structs.replace(call, body=_encode(fields), fields=fields)

    def _guard(self, policy: PrivacyPolicy) -> Guard:
        """Found by identity: a policy is the same object until another snapshot is taken."""
        guard = self._guards.get(id(policy))
        if guard is None:
            try:
                guard = Guard(policy)
            except BadRequest as error:
                raise Misconfigured(
                    f"This tenant's privacy policy cannot be used, so that nothing is sent: {error.message}"
                ) from None
            if len(self._guards) >= GUARDS:
                del self._guards[next(iter(self._guards))]
            self._guards[id(policy)] = guard  # which holds the policy, so that no other gets its id
        return guard

    def _count(self, findings: Findings, guard: Guard) -> None:
        for type_, number in findings.counts.items():
            label = type_ if type_ in BUILT_IN or type_ in OPT_IN else OWN_PATTERN
            self._meters.count("sextant_privacy_findings", label, guard.action(type_)).value += number


def _cleared_route(route: ModelRoute, routes: Iterable[ModelRoute], types: list[str]) -> ModelRoute:
    """The model that stands in: one that shares a name with the one asked for, else the first that can do as
    much. Raises Unprocessable."""
    asked = route.served
    cleared = [other for other in routes if other.served.clears_personal_data]
    names = {asked.id, *asked.aliases}
    for other in cleared:
        if names & {other.served.id, *other.served.aliases}:
            return other
    for other in cleared:
        if _can_as_much(other, route):
            return other
    raise Unprocessable(
        f"The request holds personal data ({', '.join(types)}), which this tenant's policy sends only to "
        f"models that are cleared for it; {asked.id!r} is not, and no other that you may use can stand in.",
        field="model",
        code="personal_data_no_route",
    )


def _can_as_much(other: ModelRoute, route: ModelRoute) -> bool:
    able, wanted = other.served.capabilities, route.served.capabilities
    return all(getattr(able, name) or not getattr(wanted, name) for name in ("chat", "embeddings", "rerank"))


def _where(call: Call) -> str | None:
    return next((name for name in ("messages", "prompt", "input", "documents") if name in call.fields), None)
