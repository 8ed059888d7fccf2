"""The documentation site's pure functions. The site itself, with every link checked: `make docs`."""

import inspect
import sys
import textwrap
import types
from pathlib import Path

import pytest

import collabkit

sys.path.append(str(Path(__file__).resolve().parents[1] / "docs"))

import apidocs
import docstrings

# --- the API


def test_every_public_name_has_a_task_and_is_explained_once():
    listed = " ".join(apidocs.TASKS.values()).split()
    public = [n for n in collabkit.__all__ if not inspect.ismodule(getattr(collabkit, n)) and not n.startswith("_")]
    assert sorted(listed) == sorted(public), "docs/apidocs.py: TASKS lists each name of collabkit.__all__ once"
    pages = apidocs.api_pages()
    explained = [id(obj) for page in pages for obj in page.names.values() if apidocs.is_documented_kind(obj)]
    assert len(explained) == len(set(explained))
    kinds = list(dict.fromkeys(page.kind for page in pages))
    assert kinds == ["start", "task", "module", "program", "internal"]
    modules = [page.title for page in pages if page.kind == "module"]
    assert modules == [f"collabkit.{n}" for n in collabkit.__all__ if inspect.ismodule(getattr(collabkit, n))]


def test_cells_of_a_page_pass_nbdev_test_by_and_show_each_member():
    page = next(page for page in apidocs.api_pages() if "Vocab" in page.names)
    cells = list(apidocs.page_cells(page))
    assert cells[0][1].endswith("- skip_exec: true")
    assert ("code", "show_doc(Vocab.encode, Entry, 'Vocab.encode', 3)") in cells


def test_entry_of_every_kind_of_member():
    vocab, lines = collabkit.Vocab, {}
    for name in ("Vocab", "Vocab.from_values", "Vocab.ids"):
        entry = apidocs.Entry(vocab if name == "Vocab" else getattr(vocab, name.split(".")[1]), name, 2)
        text = entry._repr_markdown_()
        assert text.startswith(f"## {name} {{ #{name} .api-name")
        path, _, line = text.partition("[source](../../")[2].partition(")")[0].partition("#L")
        lines[name] = (apidocs.ROOT / path).read_text(encoding="utf-8").splitlines()[int(line) - 1].strip(), text
    assert lines["Vocab"][0].startswith("class Vocab")
    assert lines["Vocab.from_values"][0].startswith("def from_values(")
    assert "@classmethod\nVocab.from_values(values" in lines["Vocab.from_values"][1]
    assert lines["Vocab.ids"][0].startswith("def ids(") and "@property\nVocab.ids: " in lines["Vocab.ids"][1]


def test_constant_is_found_with_the_comment_above_it():
    text = "x = 1\n# What\n# it is.\nLIMIT: int = 3\ndef OTHER(): pass\n"
    assert apidocs.definition(text, "LIMIT")[1] == "# What\n# it is.\n"
    assert apidocs.definition(text, "OTHER") is None


def test_a_module_page_leaves_out_what_was_shown_or_comes_from_elsewhere():
    module = types.ModuleType("collabkit.sham")
    exec("class A: pass\nclass B: pass", vars(module))
    module.__all__, module.C = ["A", "B", "C"], textwrap.TextWrapper
    module.__file__ = __file__
    shown = {id(module.A)}
    page = apidocs.module_page(module, "collabkit.short", "internal", shown)
    assert (list(page.names), list(page.listed)) == (["B"], ["A", "C"])
    assert id(module.B) in shown


# --- docstrings


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
    lines = [line for line in docstrings.docstring_markdown(documented.__doc__).splitlines() if line.strip()]
    labels = [f"**{label}**{{ .api-section }}" for label in ("Arguments", "Returns", "Source", "Example")]
    assert lines[:2] == ["One line with a &lt;tag> and `<code>`.", labels[0]]
    arguments = ["`ids`", ":   what they are,", "    in two lines.", "`name`, `other`", ":   both."]
    assert lines[2:9] == [*arguments, "`**kwargs`", ":   the rest."]
    assert lines[9:14] == [labels[1], "The ids.", labels[2], "Somebody 2009,", "section 3."]
    first, second = ["``` pycon", ">>> documented([1])", "[1]", "```"], ["``` pycon", ">>> 2", "2", "```"]
    assert lines[14:] == [labels[3], *first, *second]


def test_signature_fits_a_line_or_breaks_by_parameter():
    line = "f(ids, *args, name: str = 'id', **kwargs) -> list[int]"
    assert docstrings.format_signature("f", documented) == line
    broken = docstrings.format_signature("f", documented, width=40, skip_first=True)
    assert broken == "f(\n    *args,\n    name: str = 'id',\n    **kwargs,\n) -> list[int]"

    def marked(a, /, b: "tuple[int, str]", *, c=documented, d=(1, 2)):
        pass

    words = ["a", "/", "b: tuple[int, str]", "*", "c=documented", "d=(1, 2)"]
    assert docstrings.format_signature("f", marked) == f"f({', '.join(words)})"
    assert docstrings.format_signature("f", marked, width=20).split("\n")[1:-1] == [f"    {word}," for word in words]


# --- notebooks


@pytest.fixture
def nbpages():
    return pytest.importorskip("nbpages", reason="needs the docs extra")


@pytest.fixture
def page(nbpages):
    """A function from cells, each with its outputs, to the Markdown of the page and its plots."""
    from nbformat import v4

    def convert(*cells):
        front = v4.new_raw_cell("---\ntitle: T\ndescription: D\n---\n")
        made = [v4.new_code_cell(source, outputs=outputs) for source, *outputs in cells]
        return nbpages.notebook_page(v4.new_notebook(cells=[front, *made]), "stem")

    return convert


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def shown(**data):
    keys = {"html": "text/html", "text": "text/plain", "png": "image/png"}
    return {"output_type": "display_data", "metadata": {}, "data": {keys[k]: v for k, v in data.items()}}


def test_cell_options_hide_source_or_output(page):
    text, _ = page(
        ("#| echo: false\nhidden", stream("kept")),
        ("#| output: false\nseen", stream("dropped")),
        ("#| include: false\nno",),
    )
    assert text.startswith("---\ndescription: D\ntitle: T\n---\n\n# T\n\nD\n{ .lead }\n")
    assert "kept" in text and "seen" in text
    assert not any(word in text for word in ("hidden", "dropped", "no\n", "#|"))


def test_of_printed_text_progress_bars_colours_and_paths_are_left_out(page):
    bar = shown(html='<style>x</style><div><progress value="1" max="2"></progress> 50% [1/2]</div>')
    tqdm = stream("  0%|   | 0/3 [00:00<?, ?it/s]\r100%|###| 3/3 [00:00<00:00, 9.1it/s]\n", "stderr")
    warning = stream("/tmp/ipykernel_71/23.py:6: UserWarning: Careful\n  warn('Careful')\n", "stderr")
    text, _ = page(("fit()", bar, tqdm, warning, stream("\x1b[31mdone\x1b[0m\n")))
    outputs = [block.strip() for block in text.split("```")[3::2]]
    assert outputs == [f"{{ .text .cell-output .no-copy }}\n{words}" for words in ("UserWarning: Careful", "done")]


def test_data_frame_is_one_block_of_html_with_numbers_flush_right(nbpages):
    block = nbpages.clean_html(
        '<style scoped>.x { }</style>\n<table border="1" class="dataframe">'
        '<thead><tr style="text-align: right;"><th></th><th>title</th><th>score</th></tr></thead>\n\n'
        "<tbody><tr><th>0</th><td>Alien</td><td>4.5</td></tr><tr><th>1</th><td>12</td><td>NaN</td></tr></tbody></table>"
    )
    assert block.startswith('<div class="cell-output">\n<table>') and "\n\n" not in block and "style" not in block
    assert '<th align="right">score</th>' in block and '<td align="right">NaN</td>' in block
    assert "<td>12</td>" in block  # its column holds text too


def test_plot_is_extracted_and_its_object_not_printed(page):
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    plot = shown(png=pixel, text="<Figure size 640x480 with 1 Axes>")
    text, plots = page(("#| fig-alt: 'Two lines'\nplot()", shown(text="<Axes: title='x'>"), plot))
    (name,) = plots
    assert plots[name].startswith(b"\x89PNG")
    assert f"![Two lines]({name}){{ .cell-plot }}" in text and "Axes" not in text


def test_names_are_linked_in_prose_only(nbpages):
    text = "## `Vocab`\n`Vocab` and `Vocab()` but `vocab`, [`Vocab`](x.md), fastai's `Vocab`\n```\n`Vocab`\n```"
    linked = nbpages.link_names(text, {"Vocab": "v.md#Vocab"}.get)
    expected = "[`Vocab`](v.md#Vocab) and [`Vocab()`](v.md#Vocab) but `vocab`, [`Vocab`](x.md), fastai's `Vocab`"
    assert linked == text.replace(text.split("\n")[1], expected)


def test_remote_resources_are_found_and_links_left_alone(nbpages):
    html = (
        '<link rel="stylesheet" href="https://fonts.example/x.css"><link rel="canonical" href="https://ok.example/">'
        '<script async src="//cdn.example/x.js"></script><a href="https://ok.example">f</a><img src="a.png">'
    )
    assert nbpages.remote_resources(html) == ["//cdn.example/x.js", "https://fonts.example/x.css"]
