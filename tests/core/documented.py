"""What the documentation tells to type: fenced blocks and commands in the text, each with its line."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

COMMAND_LANGUAGES = ("", "sh", "bash", "bat")
OTHER_LANGUAGES = ("python", "json", "text", "bibtex")
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*) *$")
_INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )*(?:upfusion|pip|pytest|uv|python|python_embeded\\python\.exe|bash) [^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block. line: of its first line, from 1."""

    line: int
    language: str
    text: str


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page, those inside of lists too."""
    found, lines = [], path.read_text(encoding="utf-8").splitlines()
    start, fence = 0, None
    for number, line in enumerate(lines, 1):
        match = _FENCE.match(line)
        if fence is None and match:
            start, fence = number + 1, match
        elif fence is not None and line.strip() == "```":
            body = [text.removeprefix(fence["indent"]) for text in lines[start - 1 : number - 1]]
            found.append(Block(start, fence["language"], "\n".join(body)))
            fence = None
    assert fence is None, f"{path.name}:{start} opens a block that nothing ends"
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
    text = path.read_text(encoding="utf-8")
    for block in blocks(path):
        text = text.replace(block.text, "\n" * block.text.count("\n"))
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
