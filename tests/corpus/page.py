"""The page `docs/odd-cases.md`: cases that the adapter treats in another way than other receivers, with the reasons."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from attrs import frozen

from corpus.reasons import ASSOCIATIONS, DATA_SETS, REASONS
from corpus.receivers import OWN
from corpus.results import Answers

PAGE = Path(__file__).parents[2] / "docs" / "odd-cases.md"
BEGIN, END = "<!-- differences: written by `make corpus ARGS=--write` -->", "<!-- end of the differences -->"


@frozen
class Row:
    """A case with the answers of all receivers, and the reason of the adapter's answer."""

    case: str
    answers: tuple[str, ...]
    reason: str


def differences(answers_by_receiver: Mapping[str, Answers]) -> list[Row]:
    """Return the cases that the adapter answers in another way than at least one other receiver."""
    return [row for kind in (DATA_SETS, ASSOCIATIONS) for row in _rows(answers_by_receiver, kind)]


def _rows(answers_by_receiver: Mapping[str, Answers], kind: str) -> Iterator[Row]:
    for case, own in answers_by_receiver[OWN][kind].items():
        answers = tuple(
            summarize(answers_by_receiver[name][kind][case]) for name in _ordered_names(answers_by_receiver)
        )
        if any(answer != summarize(own) for answer in answers):
            yield Row(case, answers, _reason(kind, case))


def _ordered_names(answers_by_receiver: Iterable[str]) -> list[str]:
    return [OWN, *sorted(name for name in answers_by_receiver if name != OWN)]


def _reason(kind: str, case: str) -> str:
    return next((reason for pattern, reason in REASONS[kind] if re.search(pattern, case)), "")


def summarize(answer: str) -> str:
    """Return what an answer means to the sender, in a few words."""
    if match := re.search(r"^status 0x([0-9A-F]{4})", answer):
        is_stored = match[1] in ("0000", "B000", "B006", "B007")  # success and warnings (PS3.4 table B.2-1)
        return "stored" if is_stored else f"0x{match[1]}"
    if answer.startswith("accepted"):
        contexts = re.findall(r"(\d+): ([\w.]+)", answer)
        accepted = [number for number, syntax in contexts if syntax != "no"]
        if accepted:
            return f"accepted {', '.join(accepted)}"
        return "accepted none" if contexts else answer.split(";")[0]
    return {"closed": "ended", "aborted": "ended"}.get(answer, answer)


def render(answers_by_receiver: Mapping[str, Answers]) -> str:
    """Return the generated part of the page."""
    names = _ordered_names(answers_by_receiver)
    parts = []
    for kind, title in ((DATA_SETS, "Data sets"), (ASSOCIATIONS, "Associations")):
        rows = list(_rows(answers_by_receiver, kind))
        total = len(answers_by_receiver[OWN][kind])
        parts.append(f"## {title}\n\n{len(rows)} of {total} cases with a difference:\n")
        parts.append(_table(["case", *names, "reason"], ([row.case, *row.answers, row.reason] for row in rows)))
    return "\n".join(parts)


def _table(heads: list[str], rows: Iterable[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def current() -> str:
    """Return the generated part of the page as it is."""
    text = PAGE.read_text(encoding="utf-8")
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip("\n") + "\n"


def write(answers_by_receiver: Mapping[str, Answers]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    PAGE.write_text(f"{before}{BEGIN}\n\n{render(answers_by_receiver)}\n{after}", encoding="utf-8")
