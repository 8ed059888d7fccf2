"""Signatures and docstrings as Markdown."""

from __future__ import annotations

import inspect
import re
import textwrap

LABELS = {"Args": "Arguments", "Examples": "Example", "Notes": "Note"}
WITH_ITEMS = {"Args", "Arguments", "Attributes", "Raises", "Warns"}
SECTION = re.compile(r"^([A-Z][\w -]{2,40}):[ \t]*(.*)$")
INLINE = re.compile(r"^(Returns|Yields|Source|Sources|References|Note|Notes)$")  # may begin on the title's line
ITEM = re.compile(r"^(\*{0,2}[A-Za-z_][\w.]*(?:,\s*\*{0,2}[A-Za-z_][\w.]*)*)(?:\s*\([^)]*\))?:\s*(.*)$")


def summary(obj: object) -> str:
    """The first paragraph of an object's docstring, or of its `doc`, as a table's cell."""
    doc = inspect.cleandoc(getattr(obj, "doc", None) or obj.__doc__ or "")
    return escape(" ".join(doc.split("\n\n")[0].split())).replace("|", r"\|")


def docstring_markdown(doc: str) -> str:
    """A docstring (Markdown with `Args:`-like sections and doctests) as Markdown for the site."""
    parts = []
    for title, lines in sections(inspect.cleandoc(doc).splitlines()):
        body = textwrap.dedent("\n".join(lines)).strip("\n")
        if body:
            parts += [f"**{LABELS.get(title, title)}**{{ .api-section }}"] if title else []
            parts.append(items(body) if title in WITH_ITEMS else prose(body))
    return "\n\n".join(parts)


def sections(lines: list[str]):
    """Split a docstring into (title or None, lines); a section ends where the text is no longer indented."""
    title, body, inline = None, [], False
    for i, line in enumerate(lines):
        follows = next((rest for rest in lines[i + 1 :] if rest.strip()), "")
        found = SECTION.match(line)
        if found and (INLINE.match(found[1]) if found[2] else follows.startswith(" ")):
            yield title, body
            title, body, inline = found[1], [found[2]] if found[2] else [], bool(found[2])
        elif title and (not line.strip() if inline else line.strip() and not line.startswith(" ")):
            yield title, body
            title, body, inline = None, [line], False
        else:
            body.append(line.strip() if inline else line)
    yield title, body


def items(body: str) -> str:
    """`name: text` lines, each with its indented continuation, as a definition list."""
    out: list[str] = []
    for line in body.splitlines():
        if item := ITEM.match(line):
            names = ", ".join(f"`{name.strip()}`" for name in item[1].split(","))
            out += ["", names, f":   {escape(item[2])}"]
        else:
            out.append(f"    {escape(line.removeprefix('    '))}" if out and line.strip() else escape(line))
    return "\n".join(out).strip("\n")


def prose(body: str) -> str:
    """Text, with doctests as console blocks."""
    blocks = re.split(r"((?:^[ \t]*>>> .*\n(?:[ \t]*\S.*\n)*)+)", body + "\n", flags=re.M)
    for i, block in enumerate(blocks):
        if i % 2:
            blocks[i] = f"\n``` pycon\n{textwrap.dedent(block).rstrip()}\n```\n"
        else:
            blocks[i] = "\n".join(line if line.startswith("    ") else escape(line) for line in block.splitlines())
    return "\n".join(blocks).strip("\n")


def escape(text: str) -> str:
    """Keep plain text from being read as HTML, a heading or emphasis; code spans stay as they are."""
    pieces = re.split(r"(`+[^`]+`+)", text)
    for i in range(0, len(pieces), 2):
        piece = re.sub(r"__(\w+?)__", r"\_\_\1\_\_", pieces[i].replace("<", "&lt;"))
        pieces[i] = re.sub(r"(?<![*\w])(\*{1,2})(?=(?:args|kwargs)\b)", lambda m: "\\*" * len(m[1]), piece)
    return re.sub(r"^#", r"\\#", "".join(pieces))


class Shown:
    """Text that a signature shows as it is; its commas are hidden from whoever splits the parameters."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text.replace(", ", "\0")


def format_signature(name: str, obj: object, *, width: int = 88, skip_first: bool = False) -> str:
    """`name(a, b: int = 1, *, c) -> str`, on one line if it fits, else a parameter a line."""
    try:
        signature = obj if isinstance(obj, inspect.Signature) else inspect.signature(obj)
    except (TypeError, ValueError):
        return f"{name}(...)"
    shown = [parameter(p) for p in signature.parameters.values()][1 if skip_first else 0 :]
    text = str(signature.replace(parameters=shown, return_annotation=inspect.Signature.empty))
    words = [word.replace("\0", ", ") for word in text[1:-1].split(", ")]
    returns = signature.return_annotation
    tail = "" if returns is inspect.Signature.empty or inspect.isclass(obj) else f" -> {annotation(returns)}"
    line = f"{name}({', '.join(words)}){tail}"
    if len(line) <= width or not shown:
        return line
    return f"{name}(\n" + "".join(f"    {word},\n" for word in words) + f"){tail}"


def parameter(p: inspect.Parameter) -> inspect.Parameter:
    """A parameter whose annotation and default read as a person would write them."""
    changes = {}
    if p.annotation is not p.empty:
        changes["annotation"] = Shown(annotation(p.annotation))
    if p.default is not p.empty:
        named = inspect.isclass(p.default) or inspect.isroutine(p.default)
        text = p.default.__qualname__ if named else re.sub(r" at 0x[0-9a-f]+", "", repr(p.default))
        changes["default"] = Shown(text if len(text) <= 60 else text[:57] + "...")
    return p.replace(**changes)


def annotation(value: object) -> str:
    text = value if isinstance(value, str) else inspect.formatannotation(value)
    text = re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", text)  # pandas.core.frame.DataFrame -> DataFrame
    return text.replace("numpy.", "np.").strip("'\"")
