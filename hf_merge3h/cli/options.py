"""Arguments and options that more than one command takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[Path, typer.Argument(help="A YAML file: mergekit's schema, extended.", show_default=False)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Dtype = Annotated[str | None, typer.Option(help="Stored dtype of the result, in place of the recipe's.")]
Seed = Annotated[int | None, typer.Option(help="Of random masks, in place of the recipe's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable.")]
