"""C++ text made easy to check: comments and literals blanked out, functions and classes found.

It reads braces and parentheses, not the language; what it cannot place it leaves alone.
"""

import re
from dataclasses import dataclass, field

_LITERAL = re.compile(
    r'R"(?P<tag>[^()\\\s]{0,16})\(.*?\)(?P=tag)"'  # raw string
    r'|"(?:\\.|[^"\\\n])*"'
    r"|(?<![0-9A-Fa-f])'(?:\\.|[^'\\\n])+'"
    r"|//(?:\\\n|[^\n])*"
    r"|/\*.*?\*/", re.S)
_DIRECTIVE = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.M)
_ELSE_BRANCH = re.compile(r"^[ \t]*#[ \t]*(?:else|elif)\b.*?^(?=[ \t]*#[ \t]*endif\b)", re.M | re.S)
_NOT_NEWLINE = re.compile(r"[^\n]")
_TOKEN = re.compile(r"[{}();]")
_ATTRIBUTE = re.compile(
    r"\b(?:alignas|decltype|noexcept|explicit|__attribute__|__launch_bounds__|__align__"
    r"|ABSL_[A-Z_]+)\s*\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)|\[\[.*?\]\]", re.S)
_OPERATOR = re.compile(r"\boperator\s*(?:\(\s*\)|[^\w\s(]+)")
_KEYWORDS = ("if", "for", "while", "switch", "return", "requires")
_CLASS = re.compile(r"\b(?:class|struct|union)\s+(?:[A-Z_]+\s+)?(\w+)[^()=]*$")
_INIT_LIST = re.compile(r"\)\s*(?:noexcept\s*)?:(?!:)")
_ACCESS = re.compile(r"^\s*(?:public|protected|private)\s*:(?!:)")


def blank(text):
    return _NOT_NEWLINE.sub(" ", text)


def mask(text):
    """`text` with the insides of comments and literals blanked, newlines kept."""
    def hide(match):
        found = match.group()
        if found[0] == "/":
            return blank(found)
        edge = 2 if found[0] == "R" else 1
        return found[:edge] + blank(found[edge:-1]) + found[-1]
    return _LITERAL.sub(hide, text)


@dataclass
class Function:
    name: str
    line: int
    lines: int  # of signature and body
    parameters: int
    device: bool
    overrides: bool  # its signature is another's
    body: str  # masked; empty for a declaration


@dataclass
class Class:
    name: str
    line: int
    pure_virtuals: int = 0


@dataclass
class Outline:
    functions: list = field(default_factory=list)
    classes: list = field(default_factory=list)
    globals: list = field(default_factory=list)  # (line, statement) at namespace scope


def split_parameters(text):
    """The parameters of `text`, which follows an open parenthesis; None when it never closes."""
    depth, parts, start = 0, [], 0
    for i, char in enumerate(text):
        if char in "([{" or (char == "<" and text[i - 1:i] != "<" and text[i + 1:i + 2] != "<"):
            depth += 1
        elif char == ">" and text[i - 1:i] not in ("-", "=") and depth:
            depth -= 1
        elif char in "]}":
            depth -= 1
        elif char == ")":
            if depth == 0:
                parts.append(text[start:i])
                return [part for part in parts if part.strip() not in ("", "void")]
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return None


def signature(head):
    """(name, parameters) of a function's head, or None when it is no function."""
    head = _ATTRIBUTE.sub(lambda match: blank(match.group()), head)
    if re.match(r"\s*template\b", head):
        head = _skip_angles(head)
    head = _OPERATOR.sub("operator_", head)
    angle = 0
    for i, char in enumerate(head):
        if char == "<":
            angle += 1
        elif char == ">" and head[i - 1:i] != "-" and angle:
            angle -= 1
        elif char == "=" and angle == 0:
            return None
        elif char == "(" and angle == 0:
            match = re.search(r"~?\w+$", head[:i].rstrip())
            if not match or match.group() in _KEYWORDS:
                return None
            return match.group(), split_parameters(head[i + 1:])
    return None


def _skip_angles(head):
    depth = 0
    for i, char in enumerate(head):
        if char == "<":
            depth += 1
        elif char == ">" and head[i - 1] != "-":
            depth -= 1
            if depth == 0:
                return _skip_angles(head[i + 1:]) if head[i + 1:].lstrip().startswith(
                    "template") else head[i + 1:]
    return head


class _Scanner:
    """Walks the tokens of masked text with a stack of open namespaces and classes."""

    def __init__(self, text, outline):
        self.text = text
        self.outline = outline
        self.stack = []  # of Class, or "namespace", or "init"
        self.head_start = 0
        self.parens = 0

    def run(self):
        position = 0
        while match := _TOKEN.search(self.text, position):
            position = self._token(match.group(), match.start())
            if position < 0:
                return False
        return not self.stack

    def _token(self, token, at):
        if token == "(":
            self.parens += 1
        elif token == ")":
            self.parens -= 1
        elif token == "{":
            return self._open(at)
        elif token == "}":
            if not self.stack:
                return -1
            if self.stack.pop() != "init":
                self.head_start = at + 1
        elif self.parens == 0 and (not self.stack or self.stack[-1] != "init"):
            self._statement(self.text[self.head_start:at])
            self.head_start = at + 1
        return at + 1

    def _line(self, head):
        start = self.head_start + len(head) - len(head.lstrip())
        return self.text.count("\n", 0, start) + 1

    def _in_init(self):
        return bool(self.stack) and self.stack[-1] == "init"

    def _open(self, at):
        head = _ACCESS.sub(lambda m: blank(m.group()), self.text[self.head_start:at])
        plain = _ATTRIBUTE.sub(lambda m: blank(m.group()), head)
        if self.parens or self._in_init():
            self.stack.append("init")
        elif re.search(r'\bnamespace\b|\bextern\s*"', plain):
            self.stack.append("namespace")
            self.head_start = at + 1
        elif (match := _CLASS.search(plain)) and "enum" not in plain.split():
            found = Class(match.group(1), self._line(head))
            self.outline.classes.append(found)
            self.stack.append(found)
            self.head_start = at + 1
        elif self._is_body(plain):
            return self._function(head, at)
        else:
            self.stack.append("init")
        return at + 1

    @staticmethod
    def _is_body(head):
        found = signature(head)
        if not found:
            return False
        begun = _INIT_LIST.search(head)
        return not (begun and re.search(r"[\w>]$", head.rstrip()))

    def _function(self, head, at):
        depth, end = 0, -1
        for match in re.finditer(r"[{}]", self.text[at:]):
            depth += 1 if match.group() == "{" else -1
            if depth == 0:
                end = at + match.start()
                break
        if end < 0:
            return -1
        self._add(head, end)
        self.outline.functions[-1].body = self.text[at:end]
        self.head_start = end + 1
        return end + 1

    def _add(self, head, end):
        name, parameters = signature(head)
        line = self._line(head)
        lines = self.text.count("\n", 0, end) + 1 - line + 1
        device = bool(re.search(r"\b__(?:global|device)__\b", head))
        overrides = bool(re.search(r"\boverride\b", head))
        self.outline.functions.append(
            Function(name, line, lines, len(parameters or []), device, overrides, ""))

    def _statement(self, head):
        head = _ACCESS.sub(lambda m: blank(m.group()), head)
        if re.match(r"\s*(?:using|typedef|friend|static_assert)\b", head):
            return
        inside = self.stack[-1] if self.stack else "namespace"
        declared = re.sub(r"=\s*(?:0|default|delete)\s*$", "", head)
        if signature(declared):
            self._add(declared, self.head_start + len(head))
            if isinstance(inside, Class) and re.search(r"=\s*0\s*$", head):
                inside.pure_virtuals += 1
        elif inside == "namespace" and head.strip():
            self.outline.globals.append((self._line(head), " ".join(head.split())))


def outline(masked):
    """The functions, classes and globals of masked text; None when its braces do not pair."""
    for text in (masked, _ELSE_BRANCH.sub(lambda m: blank(m.group()), masked)):
        found = Outline()
        if _Scanner(_DIRECTIVE.sub(lambda m: blank(m.group()), text), found).run():
            return found
    return None
