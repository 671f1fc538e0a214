import hypothesis.strategies as st
import pytest
from hypothesis import given

from hf_merge3h.errors import SourceError
from hf_merge3h.publishing.sections import handwritten, merge

DATA = {"license": "mit", "tags": ["merge"]}
SECTIONS = {"summary": "# Name", "use": "## Use", "licence": "## Licence"}


def test_a_new_card_has_all_sections_in_order():
    text = merge("", DATA, SECTIONS)
    assert text.startswith("---\n# merge3h: written by")
    assert text.index("# Name") < text.index("## Use") < text.index("## Licence")


def test_again_changes_no_byte():
    once = merge("", DATA, SECTIONS)
    assert merge(once, DATA, SECTIONS) == once
    edited = once.replace("## Use", "## Use it").replace("# merge3h: end", "# merge3h: end\nauthor: me")
    twice = merge(edited, DATA, SECTIONS)
    assert merge(twice, DATA, SECTIONS) == twice
    assert "## Use it" not in twice
    assert "author: me" in twice


def test_sections_that_were_moved_stay_where_they_are():
    once = merge("", DATA, SECTIONS)
    head, _, rest = once.partition("<!-- merge3h:use -->")
    use, _, rest = rest.partition("<!-- /merge3h:use -->")
    moved = (
        f"{head}Mine, with  two blanks  \n{rest}\nAt the end:\n<!-- merge3h:use -->{use}<!-- /merge3h:use -->\nlast\n"
    )
    new = merge(moved, {"license": "gpl-3.0"}, {**SECTIONS, "use": "## Other use", "summary": "# Other name"})
    assert handwritten(new) == handwritten(moved)
    assert new.index("## Licence") < new.index("At the end:") < new.index("## Other use") < new.index("\nlast\n")
    assert "license: gpl-3.0" in new


def test_metadata_written_by_hand_goes_before_ours():
    old = "---\nlicense: cc-by-4.0  # I asked\nthumbnail: x.png\n---\n\nMy own words.\n"
    new = merge(old, DATA, SECTIONS)
    assert "license: cc-by-4.0  # I asked\nthumbnail: x.png\n" in new
    assert "license: mit" not in new
    assert "My own words.\n" in new
    assert handwritten(new).replace("\n", "") == handwritten(old).replace("\n", "")
    assert merge(new, DATA, SECTIONS) == new


def test_the_forms_of_transformers_and_peft_are_nobodys_words():
    from huggingface_hub import ModelCard, ModelCardData

    form = str(ModelCard.from_template(ModelCardData(library_name="peft")))
    assert merge(form, DATA, SECTIONS) == merge("", DATA, SECTIONS)


@pytest.mark.parametrize(
    "old",
    [
        "<!-- merge3h:use -->\nno end\n",
        "no start\n<!-- /merge3h:use -->\n",
        "<!-- merge3h:use -->\na\n<!-- /merge3h:use -->\n<!-- merge3h:use -->\nb\n<!-- /merge3h:use -->\n",
        "<!-- merge3h:use -->\n<!-- merge3h:licence -->\n<!-- /merge3h:use -->\n<!-- /merge3h:licence -->\n",
        "---\n- a list\n---\n",
        "---\n{[\n---\n",
    ],
)
def test_what_cannot_be_told_apart_is_refused(old):
    with pytest.raises(SourceError, match=r"README\.md"):
        merge(old, DATA, SECTIONS)


_WORDS = st.text(alphabet=st.sampled_from("ab `#-*|<>é\n\t "), max_size=60)


@given(before=_WORDS, between=_WORDS, after=_WORDS)
def test_what_people_write_stays_byte_for_byte(before, between, after):
    parts = merge("", DATA, SECTIONS).split("<!-- /merge3h:use -->\n")
    old = f"{parts[0]}<!-- /merge3h:use -->\n{before}\n{between}\n{parts[1]}{after}\n"
    new = merge(old, {"license": "apache-2.0"}, {**SECTIONS, "use": "## Changed"})
    assert handwritten(new) == handwritten(old)
    assert f"<!-- /merge3h:use -->\n{before}\n{between}\n" in new
