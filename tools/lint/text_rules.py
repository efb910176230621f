"""Rules on the text of any file: columns, blanks, words; and on Python's functions."""

import ast
import re

from rule_list import (FILE_LINES_GOOD, FILE_LINES_MAX, FUNCTION_LINES_MAX, LINE_COLUMNS_MAX,
                       Finding)

CODE_SUFFIXES = (".cc", ".h", ".cu", ".cuh", ".py", ".bzl", ".sh", ".capnp", ".js", ".css")
CODE_NAMES = ("BUILD", "WORKSPACE")

# Each pattern is spelled so that it does not match itself, and stands after the parts of words
# without one of which it cannot match.
_WORDS = [
    ("unfinished", ("TO", "FIX", "XX", "HAC", "mplement", "tub"),
     r"\b(?:TO[D]O|FIX[M]E|XX[X]|HAC[K]|unimplemente[d]|[Nn]ot (?:yet )?implemente[d]"
     r"|[Ss]tub[s]?)\b",
     "a mark of unfinished work"),
    ("local-path", ("/wor", "/far", "/roo", "/hom"),
     r"(?<![\w./$}*-])/(?:work|farm|root|home/\w+)(?:/|\b)(?!\w)", "a path of one machine"),
    ("registry-host", (".org", ".com", ".io", "proxy."),
     r"\b(?:deb\.debian|pypi|npmj[s]|crates|pythonhoste[d])\.(?:org|com|io)\b|proxy\.golan[g]",
     "a registry's host"),
    ("tooling-talk", ("laud", "nthrop", "hat", "opilo", "gent", "assist", "enerat", "ritten",
                      "ession"),
     r"(?i)\b(?:cl[a]ude|anthropi[c]|chatgp[t]|copilo[t]|sub-?agent[s]?|code assistan[t]"
     r"|ai-generate[d]|(?:generated|written) by an? (?:ai|llm|model)"
     r"|(?:this|previous|earlier|next) sessio[n] of (?:the )?(?:work|project))\b",
     "words on who wrote it"),
]
_WORDS = [(rule, parts, re.compile(pattern), what) for rule, parts, pattern, what in _WORDS]


def is_code(path, text):
    name = path.rsplit("/", 1)[-1]
    return path.endswith(CODE_SUFFIXES) or name in CODE_NAMES or text.startswith("#!")


def check(path, text, executable):
    """The findings on one text file."""
    code = is_code(path, text)
    yield from _check_blanks(path, text)
    for rule, parts, pattern, what in _WORDS:
        if not any(part in text for part in parts):
            continue
        for match in pattern.finditer(text):
            yield Finding(path, text.count("\n", 0, match.start()) + 1, rule,
                          f"{what}: `{match.group()}`")
    if code:
        yield from _check_columns(path, text)
        count = text.count("\n")
        if count > FILE_LINES_MAX:
            yield Finding(path, 1, "file-length", f"{count} lines, at most {FILE_LINES_MAX}")
    if text.startswith("#!") != executable:
        yield Finding(path, 1, "script-mode",
                      "executable without #!" if executable else "#! but not executable")
    if path.endswith(".py") or re.match(r"#!.*python", text):
        yield from _check_python(path, text)


def is_long(text):
    return FILE_LINES_GOOD < text.count("\n") <= FILE_LINES_MAX


def _check_blanks(path, text):
    if text and (not text.endswith("\n") or text.endswith("\n\n")):
        yield Finding(path, text.count("\n") or 1, "whitespace", "the end is not one newline")
    for match in re.finditer(r"[ \t\r]+$|\t", text, re.M):
        what = "a tab" if match.group() == "\t" else "trailing blanks"
        yield Finding(path, text.count("\n", 0, match.start()) + 1, "whitespace", what)


# Kept as it ran, because a checkpoint came out of it.
_PROVENANCE = ("tools/demo_model/train_demo.py",)


def _check_columns(path, text):
    if path in _PROVENANCE:
        return
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > LINE_COLUMNS_MAX and "://" not in line and "#include" not in line:
            yield Finding(path, number, "line-length",
                          f"{len(line)} columns, at most {LINE_COLUMNS_MAX}")


def _check_python(path, text):
    try:
        module = ast.parse(text)
    except SyntaxError as error:
        yield Finding(path, error.lineno or 1, "unfinished", "it does not parse as Python 3")
        return
    for node in ast.walk(module):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield Finding(path, node.lineno, "function-length",
                              f"{node.name} has {lines} lines, at most {FUNCTION_LINES_MAX}")
