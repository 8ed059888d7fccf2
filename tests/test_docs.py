"""The documentation site's pure functions, and that the API notebooks are fresh. The site itself: `make docs`."""

import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs"))

from api_notebooks import COMMAND, stale_notebooks  # noqa: E402
from sitegen import apidoc, modules  # noqa: E402
from sitegen.markdown import callouts, fence, link_names, map_targets, normalise  # noqa: E402
from sitegen.site import BuildError, Site  # noqa: E402


def test_api_notebooks_are_fresh():
    stale = sorted(stale_notebooks(ROOT))
    assert not stale, f"nbs/api/ does not match the modules' __all__: {', '.join(stale)}. Run: {COMMAND}"


# --- markdown


def test_nested_list_is_indented_by_four_and_set_off_from_the_paragraph():
    text = "Text:\n- a\n  more\n  - b\n- c\n"
    assert normalise(text) == "Text:\n\n- a\n    more\n    - b\n- c\n"


def test_fence_in_a_list_moves_with_its_item():
    text = "1. a\n   ```python\n   if x:\n       y\n   ```\n2. b\n"
    expected = "1. a\n\n    ```python\n    if x:\n        y\n    ```\n\n2. b\n"
    assert normalise(text) == expected


@pytest.mark.parametrize(
    "text", ["born in\n1999. A year\n", "* * *\n", "para\n\n    - code\n", "```\n- a\n  - b\n```\n"]
)
def test_what_only_looks_like_a_list_is_left_alone(text):
    assert normalise(text) == text


def test_table_gets_a_blank_line_before_it():
    assert normalise("Text\n| a | b |\n|---|---|\n| 1 | 2 |\n") == "Text\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"


def test_callout_becomes_an_admonition():
    text = '::: {.callout-warning}\n## Mind this\nText\n:::\n::: {.callout-tip collapse="true" title="More"}\nx\n:::\n'
    lines = [line for line in callouts(text).splitlines() if line.strip()]
    assert lines == ['!!! warning "Mind this"', "    Text", '??? tip "More"', "    x"]


def test_callout_marks_in_code_are_code():
    assert callouts("```\n::: {.callout-note}\n```\n") == "```\n::: {.callout-note}\n```\n"


@pytest.mark.parametrize("text", ["::: {.callout-note}\nText\n", "Text\n:::\n"])
def test_callout_without_its_other_end_is_an_error(text):
    with pytest.raises(ValueError, match=":::"):
        callouts(text)


def test_targets_are_mapped_outside_code_only():
    text = '[`a`](x.md) ![i](i.png)\n`[b](y.md)`\n```\n[c](z.md)\n```\n<img src="p.png">\n'
    mapped = map_targets(text, str.upper)
    assert mapped == '[`a`](X.MD) ![i](I.PNG)\n`[b](y.md)`\n```\n[c](z.md)\n```\n<img src="P.PNG">\n'


def test_names_are_linked_in_prose_only():
    text = "## `Vocab`\n`Vocab` and `Vocab()` but `vocab`, [`Vocab`](x.md), fastai's `Vocab`\n"
    linked = link_names(text, {"Vocab": "v.md#Vocab"})
    assert linked == (
        "## `Vocab`\n[`Vocab`](v.md#Vocab) and [`Vocab()`](v.md#Vocab) but `vocab`, [`Vocab`](x.md), fastai's `Vocab`\n"
    )


def test_fence_is_longer_than_those_inside():
    assert fence("```\nx\n```", "text") == "````text\n```\nx\n```\n````"


# --- API entries


def documented(ids, *args, name: str = "id", **kwargs) -> "list[int]":
    """One line with a <tag> and `<code>`.

    Args:
        ids: what they are,
            in two lines.
        name, other: both.
        **kwargs: the rest.

    Returns:
        The ids.

    Source: Somebody 2009,
        section 3.

    Example:
        >>> documented([1])
        [1]

        >>> 2
        2
    """


def test_docstring_sections_are_laid_out():
    lines = [line for line in apidoc.docstring_markdown(documented.__doc__).splitlines() if line.strip()]
    assert lines == [
        "One line with a &lt;tag> and `<code>`.",
        "**Arguments**{ .api-section }",
        "`ids`",
        ":   what they are,",
        "    in two lines.",
        "`name`, `other`",
        ":   both.",
        "`**kwargs`",
        ":   the rest.",
        "**Returns**{ .api-section }",
        "The ids.",
        "**Source**{ .api-section }",
        "Somebody 2009,",
        "section 3.",
        "**Example**{ .api-section }",
        "```pycon",
        ">>> documented([1])",
        "[1]",
        "```",
        "```pycon",
        ">>> 2",
        "2",
        "```",
    ]


def test_signature_fits_a_line_or_breaks_by_parameter():
    import inspect

    signature = inspect.signature(documented)
    line = "f(ids, *args, name: str = 'id', **kwargs) -> list[int]"
    assert apidoc.format_signature("f", signature) == line
    broken = apidoc.format_signature("f", signature, width=40, skip_first=True)
    assert broken == "f(\n    *args,\n    name: str = 'id',\n    **kwargs,\n) -> list[int]"


def test_signature_shows_keyword_and_positional_only_marks():
    import inspect

    def f(a, /, b, *, c=documented):
        pass

    assert apidoc.format_signature("f", inspect.signature(f)) == "f(a, /, b, *, c=documented)"


def test_every_kind_of_member_has_an_entry_and_a_source_line():
    from collabkit import vocab

    path, line = modules.source_location(vocab, "Vocab.from_values")
    assert "def from_values" in path.read_text(encoding="utf-8").splitlines()[line - 1]
    assert "@classmethod\nVocab.from_values(values" in apidoc.entry(vocab, "Vocab.from_values", "x")
    assert "@property\nVocab.ids: Index" in apidoc.entry(vocab, "Vocab.ids", "x")
    assert apidoc.entry(vocab, "Vocab", "a.md").startswith("## Vocab { #Vocab .api-name data-toc-label='Vocab' }")
    path, line = modules.source_location(vocab, "UNKNOWN")
    assert path.read_text(encoding="utf-8").splitlines()[line - 1].startswith("UNKNOWN = ")


def test_a_split_package_has_one_page_and_private_modules_none(tmp_path):
    files = {
        "__init__.py": "__all__ = []",
        "_hidden.py": "__all__ = []",
        "plain.py": "x = 1",
        "a.py": "__all__ = ['b']",
    }
    files |= {"models/__init__.py": "__all__ = []", "models/m.py": "__all__ = []"}
    files |= {"datasets/__init__.py": "__all__ = []", "datasets/part.py": "__all__ = []"}
    for name, text in files.items():
        file = tmp_path / "collabkit" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found = modules.module_names(tmp_path)
    assert found == [f"collabkit{m}" for m in ("", ".datasets", ".models", ".models.m", ".a")]


def test_all_that_lists_an_unknown_name_is_an_error():
    module = type(sys)("collabkit.sham")
    module.__all__ = ["missing"]
    with pytest.raises(AttributeError, match=r"collabkit\.sham\.__all__ lists \['missing'\]"):
        modules.public_names(module, [])


# --- links between pages


@pytest.fixture
def site(tmp_path):
    for name in ("README.md", "collabkit/vocab.py", "docs/pic.png", "nbs/01_a.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    site = Site(tmp_path, tmp_path / "out")
    site.add("nbs/01_a.ipynb", "a.md")
    site.add("docs/decisions/1.md", "decisions/1.md")
    site.names["Vocab"] = "api/vocab.md#Vocab"
    return site


def test_links_between_files_become_links_between_pages(site):
    site.write(
        "docs/decisions/1.md",
        "[a](../../nbs/01_a.ipynb#x) [l](../../collabkit/vocab.py#L3) ![p](../pic.png) [w](https://w) `Vocab`\n",
    )
    text = (site.folder / "decisions/1.md").read_text()
    assert text == (
        "[a](../a.md#x) [l](../source/collabkit/vocab.py.md#__codelineno-0-3) ![p](../assets/docs/pic.png) "
        "[w](https://w) [`Vocab`](../api/vocab.md#Vocab)\n"
    )
    assert site.problems == []
    assert (site.folder / "assets/docs/pic.png").exists()
    site.write_sources()
    assert 'linenums="1"' in (site.folder / "source/collabkit/vocab.py.md").read_text()


def test_link_to_nothing_is_reported(site):
    site.write("docs/decisions/1.md", "[a](../gone.md)\n")
    assert site.problems == ["docs/decisions/1.md links to ../gone.md, but docs/gone.md does not exist"]


def test_two_sources_of_one_page_are_an_error(site):
    with pytest.raises(BuildError, match=r"would both become the page a\.md"):
        site.add("docs/pages/a.md", "a.md")


# --- the finished site


def test_site_check_finds_remote_resources_and_broken_links(tmp_path):
    check = pytest.importorskip("sitegen.check", reason="needs the docs extra")
    (tmp_path / "index.html").write_text(
        '<link rel="stylesheet" href="https://fonts.example/x.css"><link rel="canonical" href="https://ok.example/">'
        '<script src="//cdn.example/x.js"></script><a href="https://fine.example">f</a><h1 id="here">T</h1>'
        '<a href="#here">1</a><a href="#gone">2</a><a href="b/">3</a>'
        '<a href="c.html">4</a><a href="b/index.html#no">5</a>'
    )
    (tmp_path / "b").mkdir()
    (tmp_path / "b/index.html").write_text('<a href="../index.html#here">1</a>')
    (tmp_path / "x.css").write_text("a { background: url('https://img.example/a.png') } b { color: red }")
    assert check.check_site(tmp_path) == [
        "index.html loads //cdn.example/x.js",
        "index.html loads https://fonts.example/x.css",
        "x.css loads https://img.example/a.png",
        "index.html links to #gone: no such heading or line",
        "index.html links to c.html: no such file",
        "index.html links to b/index.html#no: no such heading or line",
    ]


# --- notebooks


@pytest.fixture
def page():
    """A function from cells (and their outputs) to the Markdown of the page."""
    notebooks = pytest.importorskip("sitegen.notebooks", reason="needs the docs extra")
    from nbformat import v4

    def convert(*cells):
        made = []
        for cell in cells:
            source, *outputs = cell if isinstance(cell, tuple) else (cell,)
            made.append(v4.new_code_cell(source, outputs=outputs))
        front = v4.new_raw_cell("---\ntitle: T\ndescription: D\n---\n")
        return notebooks.to_page(v4.new_notebook(cells=[front, *made]), "stem")

    return convert


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def shown(**data):
    keys = {"html": "text/html", "text": "text/plain", "png": "image/png"}
    return {"output_type": "display_data", "metadata": {}, "data": {keys[k]: v for k, v in data.items()}}


def test_cell_options_hide_source_or_output(page):
    result = page(
        ("#| echo: false\nhidden", stream("kept")),
        ("#| output: false\nseen", stream("dropped")),
        "#| include: false\nno",
    )
    assert result.meta == {"title": "T", "description": "D"}
    assert "kept" in result.body and "seen" in result.body
    assert not any(word in result.body for word in ("hidden", "dropped", "no\n", "#|"))


def test_folded_cell_is_a_closed_block(page):
    body = page("#| code-fold: true\n#| code-summary: 'Show it'\nx = 1").body
    assert '??? quote "Show it"\n\n    ```python\n    x = 1\n    ```' in body


def test_progress_bars_leave_no_trace(page):
    bar = shown(html="<style>progress { color: red }</style>\n")
    half = shown(html='<div><progress value="1" max="2"></progress> 50% [1/2]</div>')
    tqdm = stream("  0%|   | 0/3 [00:00<?, ?it/s]\r100%|###| 3/3 [00:00<00:00, 9.1it/s]\n", "stderr")
    body = page(("fit()", bar, half, tqdm, stream("\x1b[31mdone\x1b[0m\n"))).body
    assert body.strip() == "```python\nfit()\n```\n\n```{ .text .cell-output .no-copy }\ndone\n```"


def test_warning_is_shown_without_the_authors_paths(page):
    text = "/tmp/ipykernel_71/23.py:6: UserWarning: Careful\n  warnings.warn('Careful')\nnext\n"
    body = page(("f()", stream(text, "stderr"))).body
    assert "\nUserWarning: Careful\nnext\n" in body
    assert "ipykernel" not in body


def test_data_frame_is_one_block_of_html_with_numbers_flush_right(page):
    html = textwrap.dedent("""\
        <div>
        <style scoped>
            .dataframe tbody { vertical-align: top; }
        </style>
        <table border="1" class="dataframe">
          <thead><tr style="text-align: right;"><th></th><th>title</th><th>score</th></tr></thead>

          <tbody><tr><th>0</th><td>Alien</td><td>4.5</td></tr><tr><th>1</th><td>12</td><td>NaN</td></tr></tbody>
        </table>
        </div>""")
    block = page(("df", shown(html=html, text="plain"))).body.partition("```\n\n")[2].strip()
    assert block.startswith('<div class="cell-output">') and "\n\n" not in block
    assert "<style" not in block and "dataframe" not in block and "plain" not in block
    assert '<th align="right">score</th>' in block and '<td align="right">NaN</td>' in block
    assert "<td>12</td>" in block  # its column holds text too


def test_plot_is_extracted_and_its_object_not_printed(page):
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    axes = shown(text="<Axes: title='x'>")
    result = page(("#| fig-alt: 'Two lines'\nplot()", axes, shown(png=pixel, text="<Figure size 640x480 with 1 Axes>")))
    (name,) = result.files
    assert result.files[name].startswith(b"\x89PNG")
    assert f"![Two lines]({name}){{ .cell-plot }}" in result.body
    assert "Axes" not in result.body
