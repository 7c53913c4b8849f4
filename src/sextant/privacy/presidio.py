"""Presidio's pattern recognisers beside our own detectors, for what those do not know: IBANs, identity
numbers of other countries, crypto wallets. Optional: `pip install 'sextant-llm[presidio]'`.

Only recognisers that need no model are taken, on a blank spaCy pipeline: nothing is downloaded, at start or
later. Those that fetch a list of domains (e-mail, URL) are left out; ours find e-mail. Neighbours:
`detector.py` asks where a policy's `opt_in` names `PRESIDIO`.
"""

from __future__ import annotations

from typing import Any

from sextant.base.errors import Misconfigured
from sextant.privacy.spans import Span

LEAST_SCORE = 0.4
"""What Presidio itself gives a telephone number without words around it."""
_OURS = {"CREDIT_CARD": "BANK_CARD", "PHONE_NUMBER": "PHONE", "IP_ADDRESS": "IP"}
"""Presidio's types that are ours under another name; the others keep theirs."""
_FETCHING = frozenset({"EmailRecognizer", "UrlRecognizer"})
_IGNORED = frozenset({"DATE_TIME", "UUID"})
"""They identify nobody by themselves."""
_LANGUAGE = "en"
_SUREST = 0.9
"""Ours win where both find something: their checksums are stricter."""


class Presidio:
    """The analyzer; made once, a second and some 150 MiB."""

    def __init__(self) -> None:
        """Raises Misconfigured where Presidio is not installed."""
        try:
            from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
        except ImportError:
            raise Misconfigured(
                "a privacy policy asks for Presidio, which is not installed; "
                "`pip install 'sextant-llm[presidio]'`, or take PRESIDIO out of the policy's opt_in"
            ) from None
        registry = RecognizerRegistry(supported_languages=[_LANGUAGE])
        registry.load_predefined_recognizers(languages=[_LANGUAGE])
        registry.recognizers = [one for one in registry.recognizers if _is_taken(one)]
        self._analyzer = AnalyzerEngine(
            registry=registry, nlp_engine=_blank_pipeline(), supported_languages=[_LANGUAGE]
        )

    def find(self, text: str) -> list[Span]:
        """What Presidio finds with some confidence."""
        found = self._analyzer.analyze(text, language=_LANGUAGE, score_threshold=LEAST_SCORE)
        return [
            Span(
                one.start, one.end, _OURS.get(one.entity_type, one.entity_type), min(one.score, _SUREST) * 0.9
            )
            for one in found
            if one.entity_type not in _IGNORED
        ]


def _is_taken(recogniser: Any) -> bool:
    """Patterns, and telephone numbers by Google's library; nothing that wants a model or the network."""
    name = type(recogniser).__name__
    return name == "PhoneRecognizer" or (hasattr(recogniser, "patterns") and name not in _FETCHING)


def _blank_pipeline() -> Any:
    """spaCy's tokenizer without a model."""
    import spacy
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    class BlankEngine(SpacyNlpEngine):  # type: ignore[misc]
        def load(self) -> None:
            self.nlp = {_LANGUAGE: spacy.blank(_LANGUAGE)}

    return BlankEngine(models=[{"lang_code": _LANGUAGE, "model_name": "blank"}])
