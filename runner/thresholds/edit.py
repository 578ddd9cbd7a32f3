"""Changes one number in a YAML text and leaves every other character as it is: comments, order, quotes, indentation, line ends.

The text is parsed for where things stand, and spliced; nothing is dumped. An edit is checked by parsing what came of it: had
anything but the one value changed, it is refused.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from runner.errors import RequestError, one_line

BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")

Path = tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where a key stands: its value is `text[start:end]`; the comment of its line, if any, is within `text[tail:eol]`.

    `flow` says that it may share its line, as in `{a: 1, b: 2}`; `problem` why a number can't replace its value, else "".
    """

    path: Path
    line: int
    start: int
    end: int
    tail: int
    eol: int
    flow: bool
    problem: str

    def __str__(self) -> str:
        return f"{dotted(self.path)} (line {self.line})"


@dataclass
class _Node:
    """A value of the text: its first and last event, and for a mapping or list what is in it."""

    path: Path
    event: Any
    last: Any
    flow: bool
    key: Any = None
    children: list["_Node"] = field(default_factory=list)

    def walk(self) -> Iterator["_Node"]:
        yield self
        for child in self.children:
            yield from child.walk()

    @property
    def end(self) -> int:
        """Where its last character is: a block ends with the last thing in it, not where the next one begins."""
        block = self.children and not self.event.flow_style
        return self.children[-1].end if block else int(self.last.end_mark.index)

    @property
    def signature(self) -> tuple[object, ...]:
        parts = ("anchor", "tag", "value")
        return (self.path, type(self.event).__name__, *(getattr(self.event, part, None) for part in parts))


def dotted(path: Path) -> str:
    """Write a path as one types it: `runtime.fp8_min_n`."""
    return ".".join(path)


def places(text: str, key: str) -> list[Place]:
    """Return every place where a mapping has `key`.

    Raises RequestError when the text is no YAML.
    """
    nodes = [node for document in _parse(text) for node in document.walk()]
    used = {node.event.anchor for node in nodes if isinstance(node.event, yaml.AliasEvent)}
    found = [node for node in nodes if node.key is not None and node.path[-1] == key]
    tokens = list(yaml.scan(text, yaml.SafeLoader)) if found else []
    return [_place(text, node, used, tokens) for node in found]


def replace(text: str, place: Place, number: str, tail: str) -> str:
    """Return the text with another number at `place`, and `tail` for what is behind the last thing of that line.

    Raises RequestError when that would change anything else.
    """
    first = text[place.start : place.end][:1]
    quote = first if first in ("'", '"') else ""
    space = " " if text[: place.start].endswith(":") else ""
    new = text[: place.start] + space + quote + number + quote + text[place.end : place.tail] + tail + text[place.eol :]
    return _checked(text, new, place.path, {place.path}, number)


def insert(text: str, within: Path, key: str, number: str) -> str:
    """Return the text with `key: number` as the last of the mapping at `within`, which is made where it is missing.

    Raises RequestError when something else than a mapping is there, or anything else would change.
    """
    documents = _parse(text)
    if len(documents) > 1:
        raise RequestError(f"can't add {key}: the file holds {len(documents)} documents; add it by hand")
    names, depth = (*within, key), 0
    node, parent = (documents[0] if documents else None), None
    while node is not None and isinstance(node.event, yaml.MappingStartEvent):
        parent = node
        node = next((child for child in node.children if child.path == names[: depth + 1]), None)
        depth += node is not None
    # Here `node` is what stands in the place of a mapping (`runtime:` with nothing behind it will do), `parent` what it is in.
    if node is not None and (not isinstance(node.event, yaml.ScalarEvent) or node.event.value or node.event.style):
        raise RequestError(f"can't add {key}: {dotted(node.path) or 'the file'} is no mapping; name another with --add PATH")
    if parent is not None and parent.event.flow_style:
        new = _into_flow(text, parent, names[depth:], number)
    elif node is not None:
        new = _with_lines(text, node.end, names[depth:], number, node.key.start_mark.column + 2 if node.key else 0)
    elif parent is not None:
        new = _with_lines(text, parent.end, names[depth:], number, parent.children[0].key.start_mark.column)
    else:
        new = _with_lines(text, len(text), names[depth:], number, 0)
    return _checked(text, new, names, {names[:length] for length in range(depth, len(names) + 1)}, number)


def _parse(text: str) -> list[_Node]:
    """Return the documents of a text as trees; aliases are leaves of their own."""
    try:
        events = iter(list(yaml.parse(text, yaml.SafeLoader)))
    except yaml.YAMLError as error:
        raise RequestError(f"it is no YAML: {one_line(str(error))}") from error
    return [_node(next(events), events, (), False) for event in events if isinstance(event, yaml.DocumentStartEvent)]


def _node(event: Any, events: Iterator[Any], path: Path, flow: bool, key: Any = None) -> _Node:
    node = _Node(path, event, event, flow, key)
    if isinstance(event, yaml.MappingStartEvent):
        while not isinstance(name := next(events), yaml.MappingEndEvent):
            # A key that is itself a mapping or list can't be one of ours; it is read to get past it.
            named = _node(name, events, (*path, "?"), bool(event.flow_style))
            step = name.value if isinstance(name, yaml.ScalarEvent) else "?"
            node.children.append(_node(next(events), events, (*path, step), bool(event.flow_style), named.event))
        node.last = name
    elif isinstance(event, yaml.SequenceStartEvent):
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            node.children.append(_node(item, events, (*path, str(len(node.children))), bool(event.flow_style)))
        node.last = item
    return node


def _place(text: str, node: _Node, used: set[str | None], tokens: list[Any]) -> Place:
    event = node.event
    end = int(event.end_mark.index)
    # An anchor and a tag stand before the value itself, which is one token.
    scalar = (token for token in tokens if isinstance(token, yaml.ScalarToken) and token.end_mark.index == end)
    start = next((int(token.start_mark.index) for token in scalar), int(event.start_mark.index))
    eol = found.start() if (found := BREAK.search(text, end)) else len(text)
    # Behind the last thing of the line there is its comment at most; ends of blocks are tokens without a width.
    things = [int(token.end_mark.index) for token in tokens if token.start_mark.index < token.end_mark.index <= eol]
    tail = max([end, *things])
    return Place(node.path, event.start_mark.line + 1, start, end, tail, eol, node.flow, _problem(event, used))


def _problem(event: Any, used: set[str | None]) -> str:
    if isinstance(event, yaml.CollectionStartEvent):
        return f"holds a {'mapping' if isinstance(event, yaml.MappingStartEvent) else 'list'}"
    if isinstance(event, yaml.AliasEvent):
        return ""
    if event.style in ("|", ">"):
        return "holds a block of text"
    if event.anchor in used:
        return f"is the anchor &{event.anchor} of other values"
    return f"has the tag {event.tag}" if event.tag and event.tag not in NUMBERS else ""


def _into_flow(text: str, parent: _Node, names: Path, number: str) -> str:
    """Insert `a: {b: number}` as the last of a mapping in braces."""
    new = "".join(f"{name}: {{" for name in names[:-1]) + f"{names[-1]}: {number}" + "}" * (len(names) - 1)
    if parent.children:
        at = parent.children[-1].end
        return f"{text[:at]}, {new}{text[at:]}"
    at = parent.end - 1
    return text[:at] + new + text[at:]


def _with_lines(text: str, at: int, names: Path, number: str, column: int) -> str:
    """Insert the names, each a line and a step deeper, behind the line in which `at` is, with the line ends that the text has."""
    lines = [" " * (column + 2 * step) + f"{name}:" for step, name in enumerate(names)]
    lines[-1] += f" {number}"
    known = BREAK.search(text)
    newline = known[0] if known else "\n"
    if not (at and BREAK.fullmatch(text[at - 1])):
        found = BREAK.search(text, at)
        if found is None:
            return text + newline.join(["", *lines] if text else [*lines, ""])
        at = found.end()
    return text[:at] + "".join(line + newline for line in lines) + text[at:]


def _checked(old: str, new: str, path: Path, touched: set[Path], number: str) -> str:
    """Return the new text if it differs from the old in the value at `path` alone."""
    problem = RequestError(f"{dotted(path)} stands where it can't be changed without changing more; write {number} there by hand")
    try:
        before, after = ([node.signature for one in _parse(text) for node in one.walk()] for text in (old, new))
    except RequestError:
        raise problem from None
    rest = [[one for one in side if one[0] not in touched] for side in (before, after)]
    if rest[0] != rest[1] or [one[-1] for one in after if one[0] == path] != [number]:
        raise problem
    return new
