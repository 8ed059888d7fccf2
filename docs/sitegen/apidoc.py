"""One API entry as Markdown: heading, signature, source link and the docstring with its sections laid out."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap

import typer

from sitegen.markdown import fence, normalise
from sitegen.modules import PACKAGE, inner_function

__all__ = ["anchor", "constant_entry", "docstring_markdown", "entry", "format_signature", "summary"]

_NAMED = "Args|Arguments|Attributes|Returns|Yields|Raises|Warns|Source|Sources|References|Example|Examples|Note|Notes"
_SECTION = re.compile(rf"^({_NAMED}):[ \t]*(.*)$")
_OTHER_SECTION = re.compile(r"^([A-Z][\w -]{2,40}):$")
_ITEM = re.compile(r"^(\*{0,2}[A-Za-z_][\w.]*(?:,\s*\*{0,2}[A-Za-z_][\w.]*)*)(?:\s*\([^)]*\))?:\s*(.*)$")
_LABELS = {"Args": "Arguments", "Examples": "Example", "Notes": "Note"}
_WITH_ITEMS = {"Args", "Arguments", "Attributes", "Raises", "Warns"}


def entry(module, dotted: str, source: str, *, level: int = 2) -> str:
    """The documentation of `module.<dotted>` (`Vocab`, `Vocab.encode`); `source` is the link to its source line."""
    owner, _, name = dotted.rpartition(".")
    parent = getattr(module, owner) if owner else module
    obj = inspect.getattr_static(parent, name) if owner else getattr(module, name)
    link = f"[source]({source}){{ .api-source }}"
    label = "" if name.startswith("_") else f" data-toc-label='{name}'"
    heading = f"{'#' * level} {_escape(dotted)} {{ #{anchor(dotted)} .api-name{label} }}"
    signature = fence(_declaration(obj, dotted, parent if owner else None), "{ .python .api-signature }")
    doc = getattr(inner_function(obj), "__doc__", None) or ""
    bases = ", ".join(f"`{b}`" for b in _bases(obj)) if inspect.isclass(obj) and _makes_itself(obj) else ""
    bases = f"Based on {bases}.\n{{ .api-bases }}" if bases else ""
    return "\n\n".join(part for part in (heading, link, signature, bases, docstring_markdown(doc)) if part) + "\n"


def anchor(dotted: str) -> str:
    """The id of an entry's heading: the name, save that Markdown would read `__getitem__` as bold."""
    return dotted.replace("__", "")


def constant_entry(module, name: str, source: str, comment: str) -> str:
    """The documentation of a module's constant: its value and the comment above its definition."""
    obj = getattr(module, name)
    value = repr(obj)
    shown = f"{name}: {type(obj).__name__}" if " at 0x" in value else f"{name} = {value[:300]}"
    heading = f"## {name} {{ #{name} .api-name }}"
    parts = (heading, f"[source]({source}){{ .api-source }}", fence(shown, "{ .python .api-signature }"))
    commands = _commands(obj) if isinstance(obj, typer.Typer) else ""
    return "\n\n".join((*parts, _text(comment), commands)) + "\n"


def summary(obj) -> str:
    """The first paragraph of an object's docstring on one line, for a table."""
    doc = inspect.cleandoc(getattr(inner_function(obj), "__doc__", None) or "")
    return _escape(" ".join(doc.split("\n\n")[0].split()), in_table=True)


def docstring_markdown(doc: str) -> str:
    """A docstring (Markdown with `Args:`-like sections and doctests) as Markdown for the site."""
    parts = []
    for title, lines in _sections(inspect.cleandoc(doc).splitlines()):
        body = textwrap.dedent("\n".join(lines)).strip("\n")
        if title and body:
            parts.append(f"**{_LABELS.get(title, title)}**{{ .api-section }}")
        if body:
            parts.append(_items(body) if title in _WITH_ITEMS else _text(body))
    return "\n\n".join(parts)


def format_signature(name: str, signature: inspect.Signature, *, width: int = 88, skip_first: bool = False) -> str:
    """`name(a, b: int = 1, *, c) -> str`, on one line if it fits, else a parameter a line."""
    parameters = list(signature.parameters.values())[1 if skip_first else 0 :]
    words, kinds = [], {p.kind for p in parameters}
    for i, p in enumerate(parameters):
        first_keyword = p.kind is p.KEYWORD_ONLY and (i == 0 or parameters[i - 1].kind is not p.KEYWORD_ONLY)
        if first_keyword and p.VAR_POSITIONAL not in kinds:
            words.append("*")
        words.append(_parameter(p))
        last_positional = i + 1 == len(parameters) or parameters[i + 1].kind is not p.POSITIONAL_ONLY
        if p.kind is p.POSITIONAL_ONLY and last_positional:
            words.append("/")
    returns = signature.return_annotation
    tail = "" if returns is inspect.Signature.empty else f" -> {_annotation(returns)}"
    line = f"{name}({', '.join(words)}){tail}"
    if len(line) <= width or not words:
        return line
    return f"{name}(\n" + "".join(f"    {w},\n" for w in words) + f"){tail}"


def _commands(app: typer.Typer) -> str:
    """The commands of a command-line program with their arguments, as its help pages show them."""
    program = typer.main.get_command(app)
    context = typer.Context(program, info_name=PACKAGE)
    commands = getattr(program, "commands", {})
    return "\n\n".join(_command(command, typer.Context(command, context, name)) for name, command in commands.items())


def _command(command, context: typer.Context) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    rows = []
    for p in command.get_params(context):
        names = [*p.opts, *p.secondary_opts] if p.param_type_name == "option" else [p.name]
        text = _escape(" ".join((getattr(p, "help", None) or "").split()))
        if not (p.default is None or isinstance(p.default, bool) or callable(p.default)):
            text += f" Default: `{p.default}`."
        if p.name != "help":
            rows.append(", ".join(f"`{n}`" for n in names) + f"\n:   {text}\n")
    head = f"### {context.command_path} {{ .api-name }}\n\n" + fence(usage, "{ .text .api-signature }")
    return "\n\n".join((head, _text(inspect.cleandoc(command.help or "")), "\n".join(rows)))


def _declaration(obj, dotted: str, owner: type | None) -> str:
    if inspect.isclass(obj):
        # Where a base of another library takes the arguments, they are that library's to explain.
        return f"class {_call(obj, dotted)}" if _makes_itself(obj) else f"class {dotted}({', '.join(_bases(obj))})"
    if isinstance(obj, property | functools.cached_property):
        annotation = inspect.signature(inner_function(obj)).return_annotation
        kind = "" if annotation is inspect.Signature.empty else f": {_annotation(annotation)}"
        return f"@property\n{dotted}{kind}"
    if isinstance(obj, classmethod | staticmethod):
        first = isinstance(obj, classmethod)
        return f"@{type(obj).__name__}\n{_call(obj.__func__, dotted, skip_first=first)}"
    return _call(obj, dotted, skip_first=owner is not None)


def _makes_itself(cls: type) -> bool:
    """Whether the class that takes the arguments is of this package."""
    maker = next(c for c in cls.__mro__ if {"__init__", "__new__"} & vars(c).keys())
    return maker.__module__.startswith(PACKAGE)


def _bases(cls: type) -> list[str]:
    return [b.__name__ for b in cls.__bases__ if b is not object and not b.__name__.startswith("_")]


def _call(obj, dotted: str, skip_first: bool = False) -> str:
    signature = _signature(obj)
    return f"{dotted}(...)" if signature is None else format_signature(dotted, signature, skip_first=skip_first)


def _signature(obj) -> inspect.Signature | None:
    try:
        signature = inspect.signature(obj)
    except (ValueError, TypeError):
        return None
    return signature.replace(return_annotation=inspect.Signature.empty) if inspect.isclass(obj) else signature


def _parameter(p: inspect.Parameter) -> str:
    text = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "") + p.name
    if p.annotation is not p.empty:
        text += f": {_annotation(p.annotation)}"
    if p.default is not p.empty:
        text += (" = " if p.annotation is not p.empty else "=") + _default(p.default)
    return text


def _default(value) -> str:
    if inspect.isclass(value) or inspect.isroutine(value):
        return value.__qualname__
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def _annotation(annotation) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", text)  # pandas.core.frame.DataFrame -> DataFrame
    text = text.replace("numpy.", "np.")
    try:
        tree = ast.parse(text.strip("'\""), mode="eval").body
    except SyntaxError:
        return text
    if isinstance(tree, ast.Subscript) and getattr(tree.value, "id", "") == "Annotated":
        tree = tree.slice.elts[0]  # what typer is told about an argument is on the command's help page
    return ast.unparse(tree)


def _sections(lines: list[str]):
    """Split a docstring into (title or None, lines)."""
    title, body, inline = None, [], False
    for i, line in enumerate(lines):
        follows = next((rest for rest in lines[i + 1 :] if rest.strip()), "")
        named, other = _SECTION.match(line), _OTHER_SECTION.match(line)
        if (named and named[2]) or ((named or other) and follows.startswith(" ")):
            yield title, body
            inline = bool(named and named[2])  # `Source: text`, which ends at a blank line
            title, body = (named or other)[1], [named[2]] if inline else []
            continue
        blank, indented = not line.strip(), line.startswith(" ")
        if title and (blank if inline else not blank and not indented):
            yield title, body
            title, body, inline = None, [], False
        body.append(line.strip() if inline else line)
    yield title, body


def _items(body: str) -> str:
    """`name: text` lines, each with its indented continuation, as a definition list."""
    out: list[str] = []
    for line in body.splitlines():
        item = _ITEM.match(line)
        if item:
            names = ", ".join(f"`{n.strip()}`" for n in item[1].split(","))
            out += ["", names, f":   {_escape(item[2])}"]
        elif not line.strip():
            out.append("")
        else:
            text = line[4:] if line.startswith("    ") else line
            out.append(f"    {_escape(text)}" if out else _escape(text))
    return "\n".join(out).strip("\n")


def _text(body: str) -> str:
    """Prose, with doctests as console blocks."""
    out: list[str] = []
    doctest: list[str] = []
    for line in [*body.splitlines(), ""]:
        if (doctest and line.strip()) or line.lstrip().startswith(">>> "):
            doctest.append(line)
        elif doctest:
            out += ["", fence(textwrap.dedent("\n".join(doctest)), "pycon"), ""]
            doctest = []
        else:
            out.append(line if line.startswith("    ") else _escape(line))
    return normalise("\n".join(out)).strip("\n")


def _escape(text: str, *, in_table: bool = False) -> str:
    """Keep plain text from being read as HTML, a heading or emphasis; code spans stay as they are."""
    pieces = re.split(r"(`+[^`]+`+)", text)
    for i in range(0, len(pieces), 2):
        pieces[i] = pieces[i].replace("<", "&lt;")
        pieces[i] = re.sub(r"__(\w+?)__", r"\_\_\1\_\_", pieces[i])
        pieces[i] = re.sub(r"(?<![*\w])(\*{1,2})(?=(?:args|kwargs)\b)", lambda m: "\\*" * len(m[1]), pieces[i])
        pieces[i] = pieces[i].replace("|", r"\|") if in_table else pieces[i]
    return re.sub(r"^#", r"\\#", "".join(pieces))
