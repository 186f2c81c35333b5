"""What a registry asks for now, and whether it has what someone waits for: by one look at it, without a further question."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from airflow_triton.registry import Registered

_FOLLOWS = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/latest)")


def wanted(model: str, registered: Mapping[str, Registered]) -> int | None:
    """The version that `models:/NAME@ALIAS` or `models:/NAME/latest` means by one look at the registry (`Registry.models`).

    None: the registry has no such model, alias or version now, or the URI is another one, which always means the same version.
    """
    follows = _FOLLOWS.fullmatch(model)
    known = registered.get(follows["name"]) if follows else None
    if follows is None or known is None:
        return None
    return known.aliases.get(follows["alias"]) if follows["alias"] else known.latest


@dataclass(frozen=True)
class Wish:
    """A version of one registered model that someone waits for; all that is given has to be true of it.

    `version` is its number, `alias` means it, it carries the tag `tag`, and its number is higher than `newer_than`.
    """

    version: int | None = None
    alias: str | None = None
    tag: str | None = None
    newer_than: int | None = None

    def fulfilled_by(self, known: Registered | None, tagged: Sequence[int] = ()) -> int | None:
        """The highest version that fits; None where there is none, or no such model. `tagged` are the versions that carry the tag.

        A number that is not higher than the highest is taken for a version that exists.
        """
        if known is None or known.latest is None:
            return None
        if self.tag is not None:
            candidates = list(tagged)
        elif self.alias is not None:
            candidates = [version for alias, version in known.aliases.items() if alias == self.alias]
        else:
            candidates = [known.latest if self.version is None else self.version]
        return max((version for version in candidates if self._fits(version, known)), default=None)

    def _fits(self, version: int, known: Registered) -> bool:
        return (
            version <= (known.latest or 0)
            and self.version in (None, version)
            and (self.alias is None or known.aliases.get(self.alias) == version)
            and (self.newer_than is None or version > self.newer_than)
        )
