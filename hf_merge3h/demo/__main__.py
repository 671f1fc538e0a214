"""The main job on real input: three experts of SmolLM2-135M-Instruct become one adapter.

Run as `python -m hf_merge3h.demo`. Merges the shipped helpful, honest and harmless adapters, prints the report, and
lets base, experts and merged model answer one prompt for each H, side by side.
"""

from __future__ import annotations

import shutil
import textwrap
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import PROMPTS, ROLES, base_model, base_model_path, expert_paths

if TYPE_CHECKING:
    from peft import PeftModel

MERGED = "merged"
#: Questions a data set at most, and the seconds that they may take.
_MANY, _SECONDS = 12, 90
#: of the suite 3h-offline: what a model of this size can show in two minutes
TABLE = ("gsm8k_likelihood", "truthfulqa", "strongreject", "safe_lookalikes")
#: Tokens of an answer under that limit: a refusal shows in its first sentence.
_SHORT = {"strongreject": 24, "safe_lookalikes": 24}


def run(
    out: Annotated[Path, typer.Option(help="Folder for the merged adapter.")] = Path("demo_output"),
    method: Annotated[str, typer.Option(help="A merging method, see `hf-merge3h methods`.")] = "r_tsvm",
    items: Annotated[
        int | None,
        typer.Option(
            min=0, help="Questions a data set of the 3H table: as many as a minute and a half allows; 0 leaves it out."
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Length of each answer, in tokens.")] = 36,
) -> None:
    """Merge the three shipped experts and show what came of it."""
    import transformers
    from peft import PeftModel

    import hf_merge3h  # noqa: F401 - gives merge_3h to PeftModel

    start = time.perf_counter()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # PEFT 0.21.2 asks transformers 5.23 by an old name: nothing that a user of the demo could mend
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
    typer.echo("Loading SmolLM2-135M-Instruct and its three experts ...")
    base, tokenizer = load_base()
    paths = expert_paths()
    first, *others = paths
    model = PeftModel.from_pretrained(base, paths[first], adapter_name=first)
    for role in others:
        model.load_adapter(paths[role], adapter_name=role)
    model.merge_3h(list(paths), method=method, adapter_name=MERGED)
    typer.echo(f"\n{model.merge_report}\n")
    folder = save(model, out)
    for role, prompt in PROMPTS.items():
        typer.secho(f"\n[{role}] {prompt}", bold=True)
        show_answers(model, tokenizer, prompt, [None, *paths, MERGED], tokens)
    typer.echo(
        "\nOne prompt each shows how the models differ, not how good they are. A merge keeps some of what its experts "
        "do\nand loses some, at 135M parameters refusals first: test what you merge."
    )
    if items != 0:
        show_table(model, tokenizer, paths, folder, items)
    typer.echo(f"\nThe merged adapter lies in {folder} ({time.perf_counter() - start:.0f} s in all). Use it with\n")
    typer.echo(f"    PeftModel.from_pretrained(base_model, {str(folder)!r})\n")
    typer.echo(f"Its card is {folder / 'README.md'}; whether it is what that says: hf-merge3h verify {folder}")


def load_base() -> tuple[Any, Any]:
    """The base model from a folder, which `hf-merge3h verify` finds again; in memory only where none can be written."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        folder = base_model_path()
    except OSError:
        return base_model()
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def show_table(model: PeftModel, tokenizer: Any, paths: Mapping[str, Path], folder: Path, items: int | None) -> None:
    """Measure base, experts and merged adapter on a few questions, and put the results beside the adapter.

    Without a number of questions, as many are asked as there is time for.
    """
    from hf_merge3h.errors import RequestError
    from hf_merge3h.evaluation.run import evaluate_3h
    from hf_merge3h.evaluation.text import short_text

    typer.secho("\n[3H] The same questions to all; none that an expert was trained on ...", bold=True)
    try:
        report = evaluate_3h(
            {"base": (model, None)} | {ROLES[role]: (model, role) for role in paths} | {"merged": (model, MERGED)},
            limit=items or _MANY,
            max_seconds=None if items else _SECONDS,
            datasets=TABLE,
            shorten=None if items else _SHORT,
            tokenizer=tokenizer,
            leave_out=list(paths.values()),
            skip_unreachable=True,
            progress=False,
        )
    except RequestError as error:  # a machine that is too busy, or without the data sets: the merge itself is done
        typer.echo(f"\nThere is no table: {error}")
        return
    report.write_into(folder)
    report.to_html(folder.parent / "report.html")
    typer.echo(f"\n{short_text(report)}\n")
    typer.echo(f"So few items show directions at best. The whole report: {folder.parent / 'report.html'}")


def save(model: PeftModel, out: Path) -> Path:
    """Save the merged adapter aside, then put it in place of the demo's former one."""
    aside = out.with_name(out.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    # no adapter here touches embeddings; "auto" would ask the Hub about them
    model.save_pretrained(str(aside), selected_adapters=[MERGED], save_embedding_layers=False)
    final = out / MERGED
    shutil.rmtree(final, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (aside / MERGED).rename(final)
    shutil.rmtree(aside)
    return final


def show_answers(model: PeftModel, tokenizer: Any, prompt: str, adapters: list[str | None], tokens: int) -> None:
    """Print what base (None) and adapters answer, one under the other."""
    width = max(60, min(120, shutil.get_terminal_size().columns))
    for adapter in adapters:
        text = answer(model, tokenizer, prompt, adapter, tokens)
        label = f"{adapter or 'base':<14}"
        wrapped = textwrap.fill(text, width, initial_indent=f"  {label}", subsequent_indent=" " * 16)
        typer.echo(wrapped if text else f"  {label}(no answer)")


def answer(model: PeftModel, tokenizer: Any, prompt: str, adapter: str | None, tokens: int) -> str:
    """What the model says, greedily, through the chat template."""
    import torch

    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    if adapter is not None:
        model.set_adapter(adapter)
    with torch.inference_mode():
        if adapter is None:
            with model.disable_adapter():
                output = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        else:
            output = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


if __name__ == "__main__":
    typer.run(run)
