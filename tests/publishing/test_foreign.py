"""Recipes read back from merges of others, and of our own."""

import pytest
from typer.testing import CliRunner

from hf_merge3h.cli import app
from hf_merge3h.errors import RequestError, SourceError
from hf_merge3h.manifest import Manifest
from hf_merge3h.publishing.foreign import recipe_of
from hf_merge3h.recipes.read import read_recipe
from tests.publishing.manifests import SHA, content

CONFIG = """slices:
  - sources:
      - model: them/one
        layer_range: [0, 8]
      - model: them/two
        layer_range: [0, 8]
merge_method: slerp
base_model: them/one
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 1]
    - value: 0.5
dtype: bfloat16
"""
CARD = f"""---
base_model:
- them/one
- them/two
library_name: transformers
tags:
- mergekit
- merge
---
# merge

This is a merge of pre-trained language models created using [mergekit](https://github.com/cg123/mergekit).

```python
print("no recipe")
```

```yaml
not: a recipe
```

### Configuration

The following YAML configuration was used to produce this model:

```yaml
{CONFIG}
```
"""


@pytest.mark.parametrize("name", ["mergekit_config.yml", "README.md", "config.yaml"])
def test_mergekit(tmp_path, name):
    (tmp_path / name).write_text(CARD if name == "README.md" else CONFIG)
    place = tmp_path / name if name == "config.yaml" else tmp_path
    text = recipe_of(place)
    assert text.startswith(f"# Read from {name} of ")
    recipe = read_recipe(text)
    assert (recipe.method, [each.source for each in recipe.models]) == ("slerp", ["them/one", "them/two"])
    done = CliRunner().invoke(app, ["recipe", str(place)])
    assert (done.exit_code, done.output) == (0, text)


def test_the_config_goes_before_the_card(tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    (tmp_path / "mergekit_config.yml").write_text(CONFIG.replace("- value: 0.5", "- value: 0.25"))
    assert "value: 0.25" in recipe_of(tmp_path)


def test_our_own_is_pinned(tmp_path):
    Manifest(content()).save(tmp_path)
    recipe = read_recipe(recipe_of(tmp_path))
    assert f"me/small@{SHA['base']}" in [each.source for each in recipe.models]


def test_what_holds_no_recipe(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        recipe_of(tmp_path / "none")
    with pytest.raises(SourceError, match="holds no recipe"):
        recipe_of(tmp_path)
    (tmp_path / "mergekit_config.yml").write_text("merge_method: frobnicate\nmodels: [{model: a}]\n")
    with pytest.raises(RequestError, match="frobnicate"):
        recipe_of(tmp_path)
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(SourceError, match="text"):
        recipe_of(tmp_path / "x.yaml")


def test_what_was_passed_over_is_said(tmp_path):
    (tmp_path / "mergekit_config.yml").write_text("models: [unclosed")
    (tmp_path / "README.md").write_text(CARD)
    text = recipe_of(tmp_path)
    assert text.startswith("# Read from README.md of ")
    assert text.splitlines()[1].startswith("# Passed over: mergekit_config.yml")
    assert read_recipe(text, label="x").given == read_recipe(CONFIG, label="x").given
