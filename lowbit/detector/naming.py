"""A detector's class names, as its file has them, held against a data set's."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lowbit.data.dataset import Dataset
from lowbit.errors import InputError

# What exporters write where nobody named the classes.
_NUMBERED = re.compile(r"(class|category|label|object|id)?\s*\d+")
# Of the data set's names, what tells two categories of one name apart.
_ID = re.compile(r" \(id \d+\)$")
_SHOWN = 5


def plain(name: str) -> str:
    """A name without case, and with one space for any of the signs that stand for it."""
    return " ".join(re.sub(r"[\s_-]+", " ", _ID.sub("", name)).casefold().split())


def shared(own: Sequence[str], others: Sequence[str]) -> float | None:
    """The share of a detector's class names that a data set has too; None where one of them has no names of its own."""
    mine, theirs = (list(map(plain, names)) for names in (own, others))
    if not mine or not theirs or any(all(map(_NUMBERED.fullmatch, names)) for names in (mine, theirs)):
        return None
    return len(set(mine) & set(theirs)) / len(set(mine))


def contradictions(own: Sequence[str], dataset: Dataset, *, declared: bool) -> tuple[str, ...]:
    """What is to be said where a detector's file calls its classes otherwise than the data set on which it is measured.

    ``dataset``: with class index i as its i-th category. ``declared``: somebody said which category each class is; then
    names in another order are meant. Raises :class:`InputError` where nobody did, and both have the same names in
    another order: every score would be one of wrong classes.
    """
    if not dataset.labelled or shared(own, dataset.category_names) is None:
        return ()
    pairs = list(zip(map(plain, own), map(plain, dataset.category_names), dataset.category_ids, strict=True))
    wrong = [number for number, (mine, theirs, category) in enumerate(pairs) if mine != theirs and category >= 0]
    if not wrong:
        return ()
    first = wrong[0]
    said = f"class {first} is {own[first]!r} in the detector's metadata and {dataset.category_names[first]!r} in the data set"
    ids = {theirs: category for _, theirs, category in pairs}
    if not declared and len(ids) == len(pairs) and {mine for mine, _, _ in pairs} == ids.keys():
        order = [ids[mine] for mine, _, _ in pairs]
        raise InputError(
            f"{dataset.annotations}: {said}: the same names in another order. Say which category each class is, in "
            f"lowbit.toml: classes = {order}."
        )
    shown = ", ".join(f"{own[i]!r} is {dataset.category_names[i]!r}" for i in wrong[:_SHOWN])
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return (
        f"{dataset.annotations}: {len(wrong)} of {len(pairs)} classes have another name than in the detector's metadata: "
        f"{shown}{more}. If they are other objects too, say in lowbit.toml which category each class is: classes = [...].",
    )
