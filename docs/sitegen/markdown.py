"""Markdown to Markdown: what Jupyter, Quarto and GitHub accept, in the dialect that MkDocs reads (Python-Markdown).

Every function leaves fenced code alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

__all__ = ["callouts", "fence", "link_names", "map_targets", "normalise"]

_FENCE = re.compile(r"^\s*(`{3,}|~{3,})")
_ITEM = re.compile(r"^(\s*)([-*+]|\d{1,9}[.)])(\s+)(?=\S)")
_INTERRUPTS = {"-", "*", "+", "1.", "1)"}
_RULE = re.compile(r"^\s*([-*_]\s*){3,}$")
_BLOCK = re.compile(r"^\s*(#{1,6}\s|:::|>|`{3}|~{3}|\||</?\w)")
_TABLE_RULE = re.compile(r"^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$")
_CALLOUT = re.compile(r"\.callout-(\w+)")
_ADMONITIONS = {"note": "note", "tip": "tip", "warning": "warning", "important": "info", "caution": "danger"}


def fence(code: str, info: str) -> str:
    """A fenced code block that is longer than any fence inside it."""
    longest = max((len(m) for m in re.findall(r"^\s*(`{3,})", code, flags=re.M)), default=2)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{info}\n{code}\n{ticks}"


def normalise(text: str) -> str:
    """Lists and tables as Python-Markdown wants them: nested by four columns, set off from prose by a blank line."""
    lines = text.splitlines()
    out: list[str] = []
    items: list[int] = []  # for each open list item, the column where its text starts
    loose = after_fence = False
    for i, (line, in_fence) in enumerate(_lines(lines)):
        if not line.strip():
            out.append("")
            loose = loose or bool(items)
            continue
        depth, indent, gap = len(items), len(line) - len(line.lstrip()), not out or not out[-1]
        item = None if in_fence or _RULE.match(line) else _ITEM.match(line)
        if not in_fence and (gap or item or _BLOCK.match(line)):  # else the line continues a paragraph
            while items and indent < items[-1]:
                items.pop()
        if item and not depth and (indent > 3 or (not gap and item[2] not in _INTERRUPTS)):
            item = None  # indented code; a number that happens to start a line of a paragraph
        opens = _opens_table(lines, i) or (items and _FENCE.match(line)) or (item and not depth)
        if not gap and not in_fence and (opens or (item and loose) or after_fence):
            out.append("")
        margin = "    " * len(items)
        if item:
            out.append(f"{margin}{item[2].replace(')', '.')} {line[item.end() :]}")
            items.append(item.end() if len(item[3]) <= 4 else item.end(2) + 1)
        else:
            out.append(margin + line[min(indent, items[-1]) if items else 0 :])
        loose, after_fence = loose and bool(items), in_fence
    return "\n".join(out) + "\n"


def callouts(text: str) -> str:
    """Quarto's `::: {.callout-note title="..."}` blocks as admonitions; other `:::` blocks as divs."""
    done: list[str] = []
    stack: list[tuple[str, list[str]]] = []
    for line, in_fence in _lines(text.splitlines()):
        target = stack[-1][1] if stack else done
        mark = None if in_fence else re.match(r"^\s*:::+\s*(.*?)\s*$", line)
        if not mark:
            target.append(line)
        elif mark[1]:
            stack.append((mark[1].strip("{}"), []))
        elif stack:
            attributes, body = stack.pop()
            (stack[-1][1] if stack else done).extend(_block(attributes, body))
        else:
            raise ValueError("':::' closes a block that was never opened")
    if stack:
        raise ValueError(f"'::: {{{stack[-1][0]}}}' is never closed")
    return "\n".join(done) + "\n"


def map_targets(text: str, change: Callable[[str], str]) -> str:
    """Apply `change` to the target of every link and image, in Markdown and in raw HTML, outside code."""

    def outside_code(part: str) -> str:
        part = re.sub(r"(\]\()([^)\s]+)", lambda m: m[1] + change(m[2]), part)
        part = re.sub(r"^(\s*\[[^\]]+\]:\s+)(\S+)", lambda m: m[1] + change(m[2]), part)
        return re.sub(r'(<(?:a|img)\s[^>]*?(?:href|src)=")([^"]+)', lambda m: m[1] + change(m[2]), part)

    return _map_text(text, outside_code)


def link_names(text: str, targets: Mapping[str, str]) -> str:
    """Turn `` `name` `` and `` `name()` `` into links where `targets` knows the name."""

    def change(line: str) -> str:
        if line.lstrip().startswith("#"):
            return line
        spans = re.compile(r"(?<![\[`\w])(?<!fastai's )`([\w./]+)(?:\(\))?`(?![\]`])")
        return spans.sub(lambda m: f"[{m[0]}]({targets[m[1]]})" if m[1] in targets else m[0], line)

    return "\n".join(line if in_fence else change(line) for line, in_fence in _lines(text.splitlines())) + "\n"


def _lines(lines: list[str]) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it is inside a fenced block (its closing fence included)."""
    mark = None
    for line in lines:
        found = _FENCE.match(line)
        if mark is None:
            yield line, False
            mark = found[1] if found else None
        else:
            yield line, True
            if found and found[1].startswith(mark) and line.strip() == found[1]:
                mark = None


def _opens_table(lines: list[str], i: int) -> bool:
    """Whether line `i` is the head of a table, which the rule under it gives away."""
    below = lines[i + 1] if i + 1 < len(lines) else ""
    return "|" in lines[i] and "|" in below and bool(_TABLE_RULE.match(below)) and not _TABLE_RULE.match(lines[i])


def _map_text(text: str, change: Callable[[str], str]) -> str:
    """Apply `change` to the parts of every line that are not code."""

    def parts(line: str) -> str:
        pieces = re.split(r"(`+[^`]+`+)", line)
        # A link's text may hold code: join what belongs together, with the code put aside.
        held = {f"\0{i}\0": piece for i, piece in enumerate(pieces) if i % 2}
        line = change("".join(f"\0{i}\0" if i % 2 else piece for i, piece in enumerate(pieces)))
        for key, piece in held.items():
            line = line.replace(key, piece)
        return line

    return "\n".join(line if in_fence else parts(line) for line, in_fence in _lines(text.splitlines())) + "\n"


def _block(attributes: str, body: list[str]) -> list[str]:
    kind = _CALLOUT.search(attributes)
    if not kind:
        classes = " ".join(re.findall(r"(?:^|\s)\.?([a-zA-Z][\w-]*)(?=\s|$)", attributes))
        return ["", f'<div class="{classes}" markdown>', "", *body, "", "</div>", ""]
    title = re.search(r'title="([^"]*)"', attributes)
    title = title[1] if title else None
    first = next((i for i, line in enumerate(body) if line.strip()), None)
    if title is None and first is not None and body[first].startswith("#"):
        title = body.pop(first).lstrip("# ").strip()
    opener = "???" if 'collapse="true"' in attributes else "!!!"
    name = _ADMONITIONS.get(kind[1], "note")
    head = f"{opener} {name}" + ("" if title is None else ' "{}"'.format(title.replace('"', "'")))
    return ["", head, "", *(f"    {line}" if line.strip() else "" for line in body), ""]
