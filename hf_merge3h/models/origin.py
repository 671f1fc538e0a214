"""Where a model or adapter came from, as plain data: what reports and manifests keep of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .cards import FILE as CARD
from .cards import Card, read_card
from .hub import ResolvedSource
from .place import no_bar
from .types import HubOptions


@dataclass(frozen=True)
class Origin:
    """Where a source came from.

    Attributes:
        given: as the user wrote it; of a live module, its class.
        source: a Hub id or a path; of a live module, what it was loaded from, as it says itself, else its class.
        commit: the Hub's, or None.
        card: what its README says (None: it has none, or says nothing).
        card_known: whether that could be found out.
        architecture: the class that its config names.
        files: its weights, as path, size and time of change: hashes can be taken later, if they are still the same.
        live: it was a module in memory, which may have been trained since it was loaded.
        adapter: it is an adapter.
    """

    given: str
    source: str
    commit: str | None = None
    card: Card | None = None
    card_known: bool = True
    architecture: str | None = None
    files: tuple[tuple[str, int, int], ...] = field(default=(), repr=False)
    live: bool = False
    adapter: bool = False

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def origin_of(
    found: ResolvedSource, files: Sequence[Path], hub: HubOptions, config: Mapping[str, Any] | None = None
) -> Origin:
    """The origin of a source that lies on this machine.

    Args:
        found: where.
        files: that hold its weights.
        hub: how the Hub is reached, should its card not be here.
        config: its config.json, for whole weights.
    """
    known, card = card_of(found, hub)
    return Origin(
        given=found.given,
        source=found.repo or found.given,
        commit=found.commit,
        card=card,
        card_known=known,
        architecture=_architecture((config or {}).get("architectures")),
        files=tuple(map(stamp, files)),
        adapter=found.kind == "adapter",
    )


def card_of(found: ResolvedSource, hub: HubOptions) -> tuple[bool, Card | None]:
    """Whether a source's card is known, and the card; of a folder in a repository that has none, the repository's."""
    above = [each for each in found.folder.parents if found.commit is not None and each.name == found.commit]
    folders = [folder for folder in (found.folder, *above) if (folder / CARD).is_file()]
    if not folders and found.repo is not None and found.commit is not None:
        return _cached_card(found.repo, found.commit, hub)  # a cache that was filled without it
    cards = (read_card(folder) for folder in folders)
    return True, next((card for card in cards if card is not None), None)


def live_origin(module: Any, hub: HubOptions) -> Origin:
    """The origin of a module in memory, by what transformers noted when it loaded it."""
    config, kind = getattr(module, "config", None), type(module).__name__
    name = str(getattr(config, "_name_or_path", "") or "")
    commit = getattr(config, "_commit_hash", None)
    repo, _, pinned = name.partition("@")  # our own loader notes the commit in the name
    commit = commit or (pinned if len(pinned) == 40 else None)
    folder = Path(name).expanduser() if name else None
    local = folder is not None and folder.is_dir()
    known, card = True, read_card(folder) if local and folder is not None else None
    if commit and not local:
        known, card = _cached_card(repo, str(commit), hub)
    return Origin(
        given=kind,
        source=(name if local or not commit else repo) or kind,
        commit=None if local else commit,
        card=card,
        card_known=known and (local or bool(commit)),  # a name without a commit is a word that anyone may have written
        architecture=_architecture(getattr(config, "architectures", None)) or kind,
        live=True,
    )


def _cached_card(repo: str, commit: str, hub: HubOptions) -> tuple[bool, Card | None]:
    """Whether the Hub's card is known, and what it says; no merge fails for want of it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    options: dict[str, Any] = {"cache_dir": hub.cache_dir, "token": hub.token, "local_files_only": hub.local_files_only}
    try:
        return True, read_card(
            Path(hf_hub_download(repo, CARD, revision=commit, tqdm_class=no_bar(), **options)).parent
        )
    except LocalEntryNotFoundError:  # offline
        return False, None
    except EntryNotFoundError:
        return True, None
    except Exception:  # no network, no access, a broken Hub: errors of many libraries
        return False, None


def stamp(path: Path) -> tuple[str, int, int]:
    """A file's path, size and time of change."""
    state = path.stat()
    return str(path.absolute()), state.st_size, state.st_mtime_ns


def _architecture(names: Any) -> str | None:
    return str(names[0]) if isinstance(names, list) and names else None
