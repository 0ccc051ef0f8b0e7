"""The answers of receivers to the corpus: run it, and read, write and compare `results.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from corpus.associations import OddAssociation, odd_associations
from corpus.data_sets import OddDataSet, odd_data_sets
from corpus.exchange import request_association, store_data_set, when_free
from corpus.reasons import ASSOCIATIONS, DATA_SETS
from corpus.receivers import AE_TITLE, Open, associations_at_once

FILE = Path(__file__).with_name("results.json")
Answers = Mapping[str, Mapping[str, str]]  # of one receiver: by kind of case, and by name of the case


def run(receiver: Open, folder: Path) -> Answers:
    """Send every case to a receiver; return its answers."""
    with receiver(folder) as port, ThreadPoolExecutor(associations_at_once(receiver)) as threads:

        def store(case: OddDataSet) -> str:
            return when_free(lambda: store_data_set(port, AE_TITLE, case.syntax, case.data, case.sop_instance_uid))

        def associate(case: OddAssociation) -> str:
            return when_free(lambda: request_association(port, case.data))

        data_sets, associations = list(odd_data_sets()), list(odd_associations())
        stored, answered = threads.map(store, data_sets), threads.map(associate, associations)
        return {
            DATA_SETS: {case.name: answer for case, answer in zip(data_sets, stored, strict=True)},
            ASSOCIATIONS: {case.name: answer for case, answer in zip(associations, answered, strict=True)},
        }


def read() -> dict[str, Answers]:
    """Return the recorded answers by receiver."""
    if not FILE.exists():
        return {}
    found: dict[str, Answers] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def write(answers: Mapping[str, Answers]) -> None:
    FILE.write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def compare(receiver: str, known: Answers, current: Answers) -> Iterator[str]:
    """Describe each answer that is not the recorded one."""
    for kind, answers in current.items():
        recorded = known.get(kind, {})
        for case in {**recorded, **answers}:
            before, now = recorded.get(case, "nothing"), answers.get(case, "nothing")
            if before != now:
                yield f"{receiver}: {case}: recorded: {before}; now: {now}"
