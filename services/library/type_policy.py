"""Which types of file may be stored. All uploads and renames use these rules."""

from __future__ import annotations

from core import content_types, names
from core.content_types import Rules
from core.principal import Principal
from services.library import sniff


class TypePolicy:
    """The rules of the settings, and of the principal's upload token."""

    def __init__(self, rules: Rules):
        self._rules = rules

    def check_name(self, principal: Principal, name: str, *, claimed_type: str | None) -> str:
        """The cleaned name. Raises InvalidName, TypeNotAllowed."""
        clean = names.clean_name(name)
        for rules in self._rules_for(principal):
            rules.check_name(names.extension(clean), claimed_type)
        return clean

    def judge(self, principal: Principal, name: str, head: bytes | bytearray) -> str:
        """The MIME type by the name and the file's first bytes. Raises TypeMismatch, TypeNotAllowed."""
        extension = names.extension(name)
        mime_type = content_types.resolve(extension, sniff.detect(head))
        for rules in self._rules_for(principal):
            rules.check(extension, mime_type)
        return mime_type

    def _rules_for(self, principal: Principal) -> list[Rules]:
        allowed = principal.budget.allowed_types if principal.budget else ()
        return [self._rules, Rules(allowed=allowed, denied=())] if allowed else [self._rules]
