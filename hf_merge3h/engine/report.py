"""What a merge did, as plain data: it prints itself, and survives `copy.deepcopy` and pickle of the model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from .measures import BlockReport, TensorReport, blocks_of, summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN_BLOCKS = 40
_GROWTH = 1.5  # how far the merged delta may outgrow the largest expert's before that is worth a warning
_LOSS = 0.1  # share of the merged delta that the dtype may swallow before that is worth a warning
_NOISE = 0.25  # share of the kept singular values that may be storage noise, the same
_RESIDUAL = 0.05  # relative error of a rank cut, the same


@dataclass
class MergeReport:
    """What a merge did.

    Attributes:
        method, title, paper, notice: of the method; the notice says what must be said with it.
        roles, sources, weights: one for each expert.
        base: label of the base.
        parameters, seed, device: as used.
        tensors: one report for each merged tensor.
        warnings: what a careful user should know.
        output: what came out: "weights" or "adapter", its dtype, and for an adapter name, rank and the least
            `max_lora_rank` that serves it in vLLM.
        origins: where each expert came from, as plain data (`models.origin.Origin`); `base_origin`, the base.
        fingerprint: of the merged tensors, by which saving tells whether they were changed since.
        saved_in: the folder that it was saved to last.
        versions: of the libraries that took part.
        seconds: wall time of the whole call.
    """

    method: str
    title: str
    paper: str
    notice: str
    roles: tuple[str, ...]
    sources: tuple[str, ...]
    weights: tuple[float, ...]
    base: str
    parameters: dict[str, Any]
    seed: int
    device: str
    tensors: tuple[TensorReport, ...]
    output: dict[str, Any]
    versions: dict[str, str]
    seconds: float
    orthogonal: bool = False
    warnings: list[str] = field(default_factory=list)
    origins: tuple[dict[str, Any], ...] = ()
    base_origin: dict[str, Any] = field(default_factory=dict)
    fingerprint: str | None = None
    saved_in: str | None = field(default=None, repr=False)

    @property
    def is_adapter(self) -> bool:
        """Whether an adapter came out, and no whole weights."""
        return "adapter" in self.output

    @property
    def blocks(self) -> tuple[BlockReport, ...]:
        """The tensors' reports, block by block."""
        return blocks_of(self.tensors)

    @property
    def total(self) -> BlockReport:
        """The whole model as one block."""
        return summarise("whole model", self.tensors)

    def find_warnings(self) -> list[str]:
        """What the figures say that a careful user should know."""
        if not self.tensors:
            return ["no expert changes any tensor: the merged model is the base"]
        total, found = self.total, []
        for role, norm in zip(self.roles, total.norms, strict=True):
            if norm == 0:
                found.append(f"{role} changes nothing: it equals the base")
        largest = max(total.norms)
        # Vectors that share no direction add up to the root of their summed squares without getting in each other's
        # way; spectral methods make them so, and are published at a plain sum.
        bound = math.hypot(*total.norms) if self.orthogonal else largest
        if largest and total.merged_norm > _GROWTH * bound:
            found.append(
                f"the merged delta is {total.merged_norm / largest:.2f} times as large as the largest expert's: "
                "expect a model that overshoots; lower `weights` (1/T each averages) or `scale`"
            )
        if total.survived < 1 - _LOSS:
            found.append(
                f"storing in {self.output.get('dtype')} swallows {1 - total.survived:.0%} of the merged delta: "
                "merge into float32 (dtype='float32') or into an adapter"
            )
        kept = sum(tensor.kept_rank or 0 for tensor in self.tensors if tensor.noisy_rank is not None)
        noisy = sum(tensor.noisy_rank or 0 for tensor in self.tensors)
        if noisy > _NOISE * kept:
            found.append(
                f"{noisy} of the {kept} singular values that were kept are no larger than what rounding the experts' "
                "weights to their storage dtype makes: denoise=True drops them"
            )
        if total.residual is not None and total.residual > _RESIDUAL:
            found.append(
                f"cutting the result to the adapter's rank loses {total.residual:.1%} of it (relative Frobenius norm): "
                "raise `rank`, or rank='exact' to keep all, or merge into the model instead (out: weights in recipes)"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain dicts, lists and numbers (JSON-ready: undefined numbers are None)."""
        plain = dataclasses.asdict(self)
        plain["blocks"] = [dataclasses.asdict(block) for block in self.blocks]
        plain["total"] = dataclasses.asdict(self.total)
        cleaned = _without_nan(plain)
        assert isinstance(cleaned, dict)
        return cleaned

    def card(self, name: str | None = None) -> str:
        """The model card of this merge, as `save_pretrained` writes it beside the weights.

        Args:
            name: of the model; None for one made of the method and the roles.
        """
        from ..publishing.card import card_text
        from .saved import content_of

        return card_text(content_of(self), name=name)

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool = False,
        create_pr: bool = False,
        collection: str | None = None,
        permission: str | None = None,
        token: str | bool | None = None,
    ) -> str:
        """Publish what this merge was saved to (`save_pretrained`), like `hf-merge3h publish`.

        Args:
            repo: owner/name; it is made if it does not exist.
            private, create_pr, collection, permission, token: as of `hf_merge3h.publish`.

        Returns:
            The address of the commit or pull request.

        Raises:
            RequestError: it was not saved, or something is wrong with it; nothing was created or uploaded.
            OutputError: the Hub or the network failed; calling it again goes on.
        """
        from ..publishing.hub import publish

        if self.saved_in is None:
            raise RequestError("this merge was not saved yet: model.save_pretrained(FOLDER), then push_to_hub")
        options = {"private": private, "create_pr": create_pr, "collection": collection, "permission": permission}
        return publish(self.saved_in, repo, token=token, **options).url  # type: ignore[arg-type]

    def plot(self, path: str | Path | None = None, *, dark: bool = False) -> Figure:
        """Draw norms, cosines, sign conflicts and what survived, block by block.

        Args:
            path: also save the picture there (its suffix tells the format).
            dark: for dark pages.

        Returns:
            The matplotlib figure.
        """
        from ..publishing.picture import draw

        plain = self.to_dict()
        figure = draw(self.title, self.roles, plain["blocks"], plain["total"], str(self.output.get("dtype")), dark=dark)
        if path is not None:
            figure.savefig(path)
        return figure

    def __repr__(self) -> str:
        lines = [f"MergeReport: {self.title} of {len(self.roles)} experts into {self.output.get('kind', 'weights')}"]
        width = max(map(len, self.roles))
        for role, source, weight in zip(self.roles, self.sources, self.weights, strict=True):
            lines.append(f"  {role:<{width}}  weight {weight:<6g} {source}")
        lines.append(f"  base: {self.base}; {_parameters_line(self.parameters)}")
        dtype, count = self.output.get("dtype"), len(self.tensors)
        facts = [f"{dtype}", f"{count} tensors", f"{self.seconds:.1f} s on {self.device}"]
        if self.output.get("rank") is not None:
            served = self.output["max_lora_rank"]
            needs = f"max_lora_rank {served} or more" if served else "more than it serves"
            facts.append(f"rank {self.output['rank']} (vLLM: {needs})")
        lines += ["  " + ", ".join(facts), *self._table()]
        if self.notice:
            lines.append(f"note: {self.notice}")
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def _table(self) -> list[str]:
        """Blocks as lines of text, the middle ones left out where they are many."""
        if not self.tensors:
            return []
        half = _SHOWN_BLOCKS // 2
        blocks = list(self.blocks)
        skipped = len(blocks) - 2 * half
        rows = [_row(block) for block in blocks]
        if skipped > 0:
            rows[half : half + skipped] = [[f"... {skipped} more"]]
        norms = [f"|{_short(role)}|" for role in self.roles]
        head = ["block", *norms, "|merged|", "cosine", "conflict", "rank", "survived", "residual"]
        table = [head, *rows, _row(self.total)]
        if self.total.residual is None:
            table = [row[: len(head) - 1] for row in table]
        widths = [max(len(row[i]) if i < len(row) else 0 for row in table) for i in range(len(table[0]))]
        return [_line(row, widths) for row in table]


def _row(block: BlockReport) -> list[str]:
    pairs = [c for i, row in enumerate(block.cosines) for c in row[i + 1 :] if not math.isnan(c)]
    return [
        block.name,
        *(f"{norm:.3g}" for norm in block.norms),
        f"{block.merged_norm:.3g}",
        f"{sum(pairs) / len(pairs):+.3f}" if pairs else "",
        "" if block.sign_conflict is None else f"{block.sign_conflict:.0%}",
        "" if block.kept_rank is None else f"{block.kept_rank:.3g}",
        f"{block.survived:.2%}",
        "" if block.residual is None else f"{block.residual:.1%}",
    ]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [f"{cell:<{widths[i]}}" if i == 0 else f"{cell:>{widths[i]}}" for i, cell in enumerate(row)]
    return "  " + "  ".join(cells).rstrip()


def _short(role: str) -> str:
    return role if len(role) <= 14 else role[:13] + "…"


def _parameters_line(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in parameters.items()) or "no parameters"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
