"""What the documentation tells to type: fenced blocks and commands in the text, each with its line."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

COMMAND_LANGUAGES = ("", "sh", "bash", "bat")
OTHER_LANGUAGES = ("python", "json", "text", "bibtex")
_FENCE = re.compile(r"^( *)```(\w*) *\n(.*?)^ *``` *$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )*(?:upfusion|pip|pytest|uv|python|python_embeded\\python\.exe|bash) [^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block. line: of its first line, from 1."""

    line: int
    language: str
    text: str


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page, those inside of lists too."""
    text, found = path.read_text(encoding="utf-8"), []
    for match in _FENCE.finditer(text):
        body = [line.removeprefix(match[1]) for line in match[3].splitlines()]
        found.append(Block(text.count("\n", 0, match.start(3)) + 1, match[2], "\n".join(body)))
    assert 2 * len(found) == len(re.findall("^ *```", text, re.MULTILINE)), f"{path.name} has a block without an end"
    return found


def commands(block: Block) -> list[tuple[int, list[str]]]:
    """Line and words of each command of a block, with continued lines joined and `a && b` taken apart."""
    found, waiting = [], ""
    for offset, line in enumerate(block.text.splitlines()):
        waiting += line
        if waiting.endswith("\\") and block.language != "bat":
            waiting = waiting[:-1] + " "
            continue
        found += [(block.line + offset, words) for words in _split(waiting, block.language)]
        waiting = ""
    return found


def inline_commands(path: Path) -> list[tuple[int, list[str]]]:
    """Commands that stand between backticks in the text of a page."""
    text = _FENCE.sub(lambda block: "\n" * block[0].count("\n"), path.read_text(encoding="utf-8"))
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        for match in _INLINE.finditer(line):
            found += [(number, words) for words in _split(match[1].replace("\\|", "|"), "bat")]
    return found


def _split(line: str, language: str) -> list[list[str]]:
    """Words as a shell splits them, without comments and leading VARIABLE=value."""
    spelled = line.replace("\\", "/") if language == "bat" else line
    parts: list[list[str]] = [[]]
    for word in shlex.split(spelled.replace(";", " ; "), comments=True):
        if word in ("&&", ";"):
            parts.append([])
        elif parts[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
            parts[-1].append(word)
    return [part for part in parts if part]
