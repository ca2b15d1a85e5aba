"""A first ``lowbit.toml`` for a folder: what lies in it, what of that fits together, and what is left to declare.

Nothing is guessed: a head that its outputs leave open is a comment in the file, and a data set is taken only if its classes
are the detector's. Images that are evaluated are never taken for calibration.
"""

from __future__ import annotations

import itertools
import mmap
import os
import re
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tomlkit
import yaml

from lowbit import files, graph
from lowbit.data.dataset import Dataset
from lowbit.data.images import SUFFIXES, read_image
from lowbit.data.leak import check_leak, look_alikes, same_files
from lowbit.data.lists import CalibrationSet, load_calibration
from lowbit.data.load import load_data
from lowbit.detector import declare, heads, naming
from lowbit.detector.head import Head, Hints, class_names
from lowbit.detector.registry import DEFAULT_SIZE
from lowbit.errors import InputError, LowbitError
from lowbit.progress import Progress, Step

if TYPE_CHECKING:
    pass

SCHEMA_NAME = "lowbit.schema.json"
LIST_NAME = "lowbit-calibration"
SCHEME = "int8-ort-minmax"

# Of a search: folders below the first, names in all and in one folder, and seconds.
MAX_DEPTH, MAX_NAMES, MAX_NAMES_OF_FOLDER, MAX_SECONDS = 6, 50_000, 10_000, 20.0
# Models that are run and data sets that are read: each takes seconds.
MAX_MODELS, MAX_DATASETS = 8, 6
# Images of a list that is written; the most that a list may have that is taken as it is; fewer are remarked on.
LISTED, MAX_LISTED, FEW = 100, 500, 50
# Bytes: files that are larger are no data.yaml, and what of a list is looked at to know it.
_MAX_YAML, _HEAD_OF_LIST = 2**20, 2**16

# What is below these is other people's, or labels, of which there are as many as images.
_SKIPPED = frozenset({"node_modules", "site-packages", "__pycache__", "labels"})
_COCO_KEYS = (b'"images"', b'"annotations"', b'"categories"')
Role = Literal["calibration", "train", "val", "test", ""]
# A head, and the lines of TOML that declare it.
_Declared = tuple[tuple[str, ...], Head]
_ROLES = re.compile(
    r"(?<![a-z])(?:(calib)(?:ration)?|(train)(?:ing)?|(val)(?:id|idation)?|(test)(?:ing)?)(?![a-z])", re.I
)
_EVALUATED: dict[Role, int] = {"val": 0, "test": 1, "": 2}
_CALIBRATED: dict[Role, int] = {"calibration": 0, "": 1, "train": 2}
_POOLED: dict[Role, int] = {"calibration": 0, "train": 1, "": 2}


@dataclass
class Found:
    """What a folder holds, the least deep first. ``images``: by the folder that they lie in. ``remarks``: where the search
    stopped. ``left_out``: why, by path."""

    folder: Path
    models: list[Path] = field(default_factory=list)
    checkpoints: list[Path] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    lists: list[Path] = field(default_factory=list)
    images: dict[Path, list[Path]] = field(default_factory=dict)
    names: int = 0
    remarks: list[str] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)

    def said(self, text: object) -> str:
        """A text in one line, with paths relative to the folder: what goes into a file is the same on every machine."""
        plain = " ".join(str(text).replace(f"{self.folder}{os.sep}", "").split())
        return "".join(letter if letter.isprintable() else "?" for letter in plain)

    def relative(self, path: Path) -> str:
        """A path as the folder's files name it."""
        return path.relative_to(self.folder).as_posix()

    def role(self, path: Path) -> Role:
        """What a file is for, as its name says, or else that of the nearest folder."""
        for part in (path.stem, *reversed(path.relative_to(self.folder).parent.parts)):
            if match := _ROLES.search(part):
                roles: tuple[Role, ...] = ("calibration", "train", "val", "test")
                return next(role for role, group in zip(roles, match.groups(), strict=True) if group)
        return ""


@dataclass(frozen=True)
class Candidate:
    """A detector's file. ``heads``: how each head that fits is declared, as TOML; one with nothing to declare if it is
    recognised. ``reason``: what the file leaves open. ``names``: of its classes, where it has them."""

    name: str
    path: Path
    heads: tuple[_Declared, ...]
    pixels: bool
    reason: str
    names: tuple[str, ...] = ()

    @property
    def recognised(self) -> bool:
        """Whether nothing has to be declared."""
        return not self.reason


@dataclass(frozen=True)
class Proposal:
    """``text``: of ``lowbit.toml``. ``calibration``: images of the list ``list_path`` that goes with it, empty for none.
    ``chosen``, ``left_out``, ``missing``, ``remarks``: a line each, for people; ``missing`` is what has to be declared."""

    folder: Path
    text: str
    list_path: Path
    calibration: tuple[Path, ...]
    chosen: tuple[str, ...]
    left_out: tuple[str, ...]
    missing: tuple[str, ...]
    remarks: tuple[str, ...]


def check_absent(folder: Path) -> None:
    """Raise :class:`InputError` where a folder has a ``lowbit.toml``, which is never overwritten."""
    path = folder / declare.NAME
    if os.path.lexists(path):
        raise InputError(
            f"{path}: is there already, and is not overwritten. Edit it, or move it away to have another one written."
        )


def search(folder: Path) -> Found:
    """Look through a folder, level by level and within limits. Hidden folders, lowbit's own runs and folders of labels are
    left out. Raises :class:`InputError` for one that is no folder or cannot be read."""
    found, ends = Found(folder), time.monotonic() + MAX_SECONDS
    level, seen = [folder], {folder.resolve()}
    for _ in range(MAX_DEPTH + 1):
        below: list[Path] = []
        for place in level:
            if found.names >= MAX_NAMES or time.monotonic() > ends:
                limit = f"{MAX_NAMES} names" if found.names >= MAX_NAMES else f"{MAX_SECONDS:.0f} seconds"
                found.remarks.append(
                    f"The search ended after {limit}: name a smaller folder to look through all of it."
                )
                return found
            below += [entry for entry in _listed(place, found) if entry.resolve() not in seen]
            seen.update(entry.resolve() for entry in below)
        level = below
    if level:
        found.remarks.append(f"{len(level)} folders more than {MAX_DEPTH} deep were not looked into.")
    return found


def _listed(place: Path, found: Found) -> list[Path]:
    """Note a folder's files; returns the folders in it."""
    most = min(MAX_NAMES_OF_FOLDER, MAX_NAMES - found.names)
    try:
        with os.scandir(place) as entries:
            listed = sorted(itertools.islice(entries, most), key=lambda entry: entry.name)
            more = next(entries, None) is not None
    except OSError as error:
        if place == found.folder:
            raise InputError(f"{place}: cannot be read ({error.strerror}). Name a folder that can.") from error
        found.left_out[place] = f"cannot be read ({error.strerror})"
        return []
    found.names += len(listed)
    if more:
        found.remarks.append(f"{found.said(place)}: has more than {most} names; others were not looked at.")
    if {"results.json", "report.html"} <= {entry.name for entry in listed}:
        return []  # a run of lowbit's
    below = []
    for entry in listed:
        path = place / entry.name
        if entry.name.startswith(".") or entry.name in _SKIPPED:
            continue
        if path.is_dir():
            below.append(path)
        elif not entry.name.isprintable():
            found.left_out[path] = "has a name that a list or a TOML file can't hold"
        else:
            _sort_in(path, found)
    return below


def _sort_in(path: Path, found: Found) -> None:
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        found.models.append(path)
    elif suffix in (".pt", ".safetensors"):
        found.checkpoints.append(path)
    elif suffix in (".json", ".yaml", ".yml"):
        found.tables.append(path)
    elif suffix == ".txt":
        found.lists.append(path)
    elif suffix in SUFFIXES:
        found.images.setdefault(path.parent, []).append(path)


def propose(folder: Path, progress: Progress) -> Proposal:
    """What ``lowbit.toml`` should say of a folder. Writes nothing.

    Raises :class:`InputError` where there is one already, and where no ONNX file is a detector.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder. Name the one that has your detector and its data.")
    folder = folder.resolve()
    check_absent(folder)
    found = search(folder)
    datasets = list(_datasets(found, progress))
    candidates = _candidates(found, [len(dataset.category_ids) for dataset in datasets], progress)
    if not candidates:
        raise InputError(_nothing(found))
    data = {one.name: _fitting(one, datasets, found) for one in candidates}
    evaluated = list({dataset.annotations: dataset for dataset in data.values() if dataset}.values())
    for dataset in datasets:
        if dataset in evaluated:
            found.left_out.pop(dataset.annotations, None)  # another detector's reason
        else:
            found.left_out.setdefault(dataset.annotations, "another data set was chosen")
    progress(Step("looking for calibration images that are not evaluated"))
    calibration, remark = _calibration(found, evaluated)
    drawn = bool(calibration) and calibration is not None and not os.path.lexists(calibration.source)
    return _written(found, candidates, data, calibration, drawn=drawn, remark=remark)


def write(proposal: Proposal) -> tuple[Path, ...]:
    """Write ``lowbit.toml``, its schema and its calibration list; returns their paths. ``lowbit.toml`` comes last, whole
    or not at all. Raises :class:`InputError` if one has appeared meanwhile, :class:`StoreError` if nothing can be written.
    """
    check_absent(proposal.folder)
    schema, target = proposal.folder / SCHEMA_NAME, proposal.folder / declare.NAME
    written = []
    if proposal.calibration:
        names = "".join(f"{path.relative_to(proposal.folder).as_posix()}\n" for path in proposal.calibration)
        files.write_atomic(proposal.list_path, names)
        written.append(proposal.list_path)
    files.write_json(schema, declare.schema())
    files.write_atomic(target, proposal.text)
    return (target, schema, *written)


def _nothing(found: Found) -> str:
    """Why there is no detector, and what to do."""
    reasons = [f"{found.relative(path)}: {found.left_out[path]}" for path in found.models if path in found.left_out]
    if reasons:
        return f"{found.folder}: none of its .onnx files is a detector that lowbit reads. {' '.join(reasons)}"
    limits = "".join(f" {remark}" for remark in found.remarks)
    if found.checkpoints:
        first = found.relative(found.checkpoints[0])
        return (
            f"{found.folder}: has no .onnx file, but the checkpoint {first}. Export it, for example with: yolo export "
            f"model={first} format=onnx opset=17.{limits}"
        )
    return (
        f"{found.folder}: has no .onnx file in it or up to {MAX_DEPTH} folders below. Export your detector, or name the "
        f"folder that has it: lowbit init FOLDER.{limits}"
    )


def _datasets(found: Found, progress: Progress) -> Iterator[Dataset]:
    """The labelled data sets for evaluation, the likeliest first: those that their names call validation, then test."""
    likely = []
    for path in found.tables:
        role: Role = "val" if path.suffix != ".json" else found.role(path)  # a data.yaml names its own
        if not _is_dataset(path):
            continue
        if role not in _EVALUATED:
            found.left_out[path] = f"its name says that its images are for {role}"
            continue
        likely.append((_EVALUATED[role], path))
    likely.sort(key=lambda pair: pair[0])  # stable: as deep as they were found
    for number, (_, path) in enumerate(likely):
        if number >= MAX_DATASETS:
            found.left_out[path] = f"{MAX_DATASETS} data sets before it were read"
            continue
        progress(Step(f"reading {found.relative(path)}"))
        try:
            yield load_data(path)
        except InputError as error:
            found.left_out[path] = found.said(error)


def _is_dataset(path: Path) -> bool:
    """Whether a file has a data set's keys, as far as can be seen without reading it into memory."""
    try:
        size = path.stat().st_size
        if path.suffix == ".json":
            with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return all(content.find(key) >= 0 for key in _COCO_KEYS)
        if size > _MAX_YAML:
            return False
        table = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return False
    return (
        isinstance(table, dict) and bool({"val", "validation"} & table.keys()) and bool({"names", "nc"} & table.keys())
    )


def _candidates(found: Found, counts: Sequence[int], progress: Progress) -> list[Candidate]:
    """The detectors among the ONNX files. ``counts``: of classes, as the data sets have them."""
    out: list[Candidate] = []
    for number, path in enumerate(found.models):
        if number >= MAX_MODELS:
            found.left_out[path] = f"{MAX_MODELS} ONNX files before it were looked at"
            continue
        progress(Step(f"reading {found.relative(path)}"))
        try:
            out.append(_candidate(path, _name(path, {one.name for one in out}), counts, found))
        except InputError as error:
            found.left_out[path] = found.said(error).removeprefix(f"{found.relative(path)}: ")
    return out


def _name(path: Path, taken: set[str]) -> str:
    """A detector's name, as it can stand in ``[detectors.NAME]`` and in test ids."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-") or "detector"
    numbered = (f"{plain}-{number}" for number in itertools.count(2))
    return plain if plain not in taken else next(name for name in numbered if name not in taken)


def _candidate(path: Path, name: str, counts: Sequence[int], found: Found) -> Candidate:
    """A file's head, or those that fit with a declaration. Raises :class:`InputError` where none does."""
    open_size: tuple[str, ...] = ()
    reasons = []
    try:
        form = graph.canonical(path)
    except InputError as error:
        try:
            form = graph.canonical(path, (DEFAULT_SIZE, DEFAULT_SIZE))
        except InputError:
            raise error from None
        open_size = (f"size = {DEFAULT_SIZE}",)
        reasons.append("Its input has dynamic sides: which size is deployed?")
    try:
        fitting: list[_Declared] = [((), _read(path, form, None))]
    except InputError as error:
        fitting = list(_declarable(path, form, counts))
        if not fitting:
            raise
        reasons.append(found.said(error).removeprefix(f"{found.relative(path)}: "))
    return Candidate(
        name=name,
        path=path,
        heads=tuple(((*open_size, *lines), head) for lines, head in fitting),
        pixels=form.pixels,
        reason=" ".join(reasons),
        names=class_names(path, form.model),
    )


def _read(path: Path, form: graph.Canonical, hints: Hints | None) -> Head:
    """A file's head, if it reads what the file gives. Raises :class:`InputError`."""
    head = heads.recognise(path, form.model, hints)
    heads.try_on(path, head, form.samples)
    return head


def _declarable(path: Path, form: graph.Canonical, counts: Sequence[int]) -> Iterator[_Declared]:
    """Every kind of head that a file has if it is declared, with the lines that do so: the classes too, where the kind is
    not enough."""
    enough: set[str] = set()
    for classes in (None, *dict.fromkeys(counts)):
        offered = []
        for lines, hints in _hints(classes):
            try:
                head = _read(path, form, hints)
            except InputError:
                continue
            if head.kind not in enough:
                offered.append((lines if classes is None else (*lines, "classes = [...]"), head))
        enough |= {head.kind for _, head in offered}
        yield from offered


def _hints(classes: int | None) -> Iterator[tuple[tuple[str, ...], Hints]]:
    """Every kind of head alone and with each option, as TOML and as the recognition takes it."""
    for kind, family in heads.KINDS.items():
        yield (f'head = "{kind}"',), Hints(kind, classes=classes)
        for option, values in family.options.items():
            for value in values:
                line = f'head = {{ kind = "{kind}", {option} = "{value}" }}'
                yield (line,), Hints(kind, classes=classes, options={option: value})


# Of a detector's class names, the share that its data set has at least: spellings differ, objects don't.
_SHARED_NAMES = 0.5


def _fitting(candidate: Candidate, datasets: Iterable[Dataset], found: Found) -> Dataset | None:
    """The data set of the detector's classes, None where there is none: of those with as many, the first with the most of
    its class names, where both have names."""
    fitting: list[tuple[float, Dataset]] = []
    for dataset in datasets:
        for _, head in candidate.heads:
            try:
                fitted = dataset.fitted(head.classes, candidate.name)
            except InputError as error:
                found.left_out.setdefault(dataset.annotations, found.said(error))
                continue
            share = naming.shared(candidate.names, fitted.category_names)
            if share is not None and share < _SHARED_NAMES:
                theirs = f"{fitted.category_names[0]!r}, not {candidate.names[0]!r}"
                said = f"its classes have other names than {candidate.name}'s: {theirs}"
                found.left_out.setdefault(dataset.annotations, said)
                continue
            fitting.append((_SHARED_NAMES if share is None else share, dataset))
            break
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None  # the first of equals


def _calibration(found: Found, evaluated: Sequence[Dataset]) -> tuple[CalibrationSet | None, str]:
    """Images for calibration: an existing list, or some of a folder's under the name of a list that is not there yet; and
    what the user should know of them."""
    pool: dict[Role, list[Path]] = {}
    for path in sorted(filter(_is_list, found.lists), key=lambda path: _CALIBRATED.get(found.role(path), 9)):
        if (role := found.role(path)) not in _CALIBRATED:
            found.left_out[path] = f"its name says that its images are for {role}"
            continue
        try:
            given = load_calibration(path)
            if len(given.paths) > MAX_LISTED:
                found.left_out[path] = f"lists {len(given.paths)} images; {FEW} to {MAX_LISTED} are enough"
                pool.setdefault(role, []).extend(p for p in given.paths if p.is_relative_to(found.folder))
                continue
            return given, " ".join(note for dataset in evaluated for note in check_leak(dataset, given))
        except InputError as error:
            found.left_out[path] = found.said(error)
    if not evaluated:
        return None, "no data set was found that calibration images could be held against"
    for folder, images in found.images.items():
        if (role := found.role(folder / "any")) or "images" in folder.relative_to(found.folder).parts:
            pool.setdefault(role, []).extend(images)
    shown = {image.path.resolve() for dataset in evaluated for image in dataset.images}
    for role in sorted(_POOLED, key=_POOLED.__getitem__):
        others = [path for path in dict.fromkeys(pool.get(role, ())) if path.resolve() not in shown]
        sample = (
            [others[number * len(others) // LISTED] for number in range(LISTED)] if len(others) > LISTED else others
        )
        if chosen := _unseen(sample, evaluated):
            return CalibrationSet(_free(found.folder), chosen), ""
    return None, "no list of images was found, and no folder of images that are not evaluated"


def _is_list(path: Path) -> bool:
    """Whether a text file's first entry is an image."""
    try:
        with path.open(encoding="utf-8-sig") as stream:
            lines = stream.read(_HEAD_OF_LIST).splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    first = next((line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")), "")
    return Path(first).suffix.lower() in SUFFIXES


def _free(folder: Path) -> Path:
    """Where a list can be written that overwrites none."""
    names = itertools.chain([LIST_NAME], (f"{LIST_NAME}-{number}" for number in itertools.count(2)))
    return next(path for path in (folder / f"{name}.txt" for name in names) if not os.path.lexists(path))


def _unseen(paths: Sequence[Path], evaluated: Iterable[Dataset]) -> tuple[Path, ...]:
    """Those that can be decoded and listed, and are no evaluation image or copy of one."""
    good = tuple(path for path in paths if path.name.strip() == path.name and _decodes(path))
    for dataset in evaluated:
        if good:
            given = CalibrationSet(dataset.annotations, good)
            seen = {*same_files(dataset, given), *look_alikes(dataset, given)[0]}
            good = tuple(path for path in good if path not in seen)
    return good


def _decodes(path: Path) -> bool:
    try:
        read_image(path)
    except InputError:
        return False
    return True


def _written(
    found: Found,
    candidates: Sequence[Candidate],
    data: dict[str, Dataset | None],
    calibration: CalibrationSet | None,
    *,
    drawn: bool,
    remark: str,
) -> Proposal:
    """The text of the file, proved to say what was checked, and the lines for people."""
    lines = [
        f"#:schema ./{SCHEMA_NAME}",
        "# What lowbit gates in this folder. docs/your-detector.md explains every key; editors complete them.",
    ]
    chosen, missing, expected = [], [], {}
    for one in candidates:
        dataset = data[one.name]
        entries: dict[str, Any] = {"model": found.relative(one.path)}
        head = one.heads[0][1]
        shape = f"{head.classes} classes, input {head.sides[0]} x {head.sides[1]}"
        what = f"head {head.kind}, {shape}" if one.recognised else "to be completed, see below"
        lines += ["", f"[detectors.{one.name}]", f"{_entry('model', entries['model'])}  # {what}"]
        chosen.append(f"{entries['model']}: detector {one.name!r}, {what}")
        if not one.recognised:
            lines += _open_lines(one, dataset)
            missing.append(f"[detectors.{one.name}] in {declare.NAME}: {one.reason}")
        if dataset:
            entries["dataset"] = found.relative(dataset.annotations)
            count = f"{len(dataset.images)} images, {len(dataset.category_ids)} categories"
            lines.append(f"{_entry('dataset', entries['dataset'])}  # {count}")
            chosen.append(f"{entries['dataset']}: data set for evaluation of {one.name!r}, {count}")
        else:
            lines.append('# dataset = "..."  # COCO annotations or data.yaml of its classes; none was found')
            missing.append(f"[detectors.{one.name}] in {declare.NAME}: a data set for evaluation")
        if calibration:
            entries["calibration"] = found.relative(calibration.source)
            lines.append(f"{_entry('calibration', entries['calibration'])}  # {len(calibration.paths)} images")
        else:
            lines.append(f'# calibration = "..."  # a list of {FEW} to {MAX_LISTED} images: {remark}')
            missing.append(f"[detectors.{one.name}] in {declare.NAME}: a list of images for calibration ({remark})")
        if len(one.heads) == 1:
            lines += _input_lines(one)
        lines.append("# confidence = 0.25  # the threshold that you deploy it with")
        expected[one.name] = entries
    lines += [
        "",
        "[gate]",
        f'schemes = ["{SCHEME}"]  # `lowbit schemes` lists them; without this line all run: many minutes',
        "",
    ]
    text = "\n".join(lines)
    gated = {"detectors": expected, "gate": {"schemes": [SCHEME]}}
    checked = declare.Project.model_validate(gated, context={"folder": found.folder})
    if declare.parse(found.folder, text) != checked:
        raise LowbitError(f"{found.folder / declare.NAME}: would not say what was checked; nothing was written.")
    remarks = list(found.remarks)
    if calibration:
        why = "a list that is written" if drawn else "a list that was found"
        unseen = ", none of them evaluated" if any(data.values()) else ""
        chosen.append(
            f"{found.relative(calibration.source)}: {why}, {len(calibration.paths)} images for calibration{unseen}"
        )
        if len(calibration.paths) < FEW:
            remarks.append(
                f"{len(calibration.paths)} images for calibration are few: {FEW} to {MAX_LISTED} are better."
            )
        remarks += [found.said(remark)] if remark else []
    left_out = tuple(f"{found.relative(path)}: {why}" for path, why in sorted(found.left_out.items()))
    list_path = calibration.source if calibration else found.folder
    drawn_images = calibration.paths if calibration and drawn else ()
    return Proposal(
        found.folder, text, list_path, drawn_images, tuple(chosen), left_out, tuple(missing), tuple(remarks)
    )


def _entry(key: str, value: str) -> str:
    return f"{key} = {tomlkit.item(value).as_string()}"


def _open_lines(candidate: Candidate, dataset: Dataset | None) -> list[str]:
    """What has to be declared of a detector, as comments."""
    ids = list(dataset.category_ids) if dataset else "..."
    alternatives = [[line.replace("[...]", str(ids)) for line in lines] for lines, _ in candidate.heads]
    many = len(alternatives) > 1
    out = [f"# {line}" for line in textwrap.wrap(candidate.reason, 110, break_on_hyphens=False)]
    out += [f"# Take the # away from {'one of these' if many else 'this'}, if it is right:"]
    for number, lines in enumerate(alternatives):
        out += ["# or"] * (number > 0) + [f"# {line}" for line in lines]
    return out


def _input_lines(candidate: Candidate) -> list[str]:
    """What its input is given, which no file says, as comments."""
    unit = "[0, 255], which the graph scales" if candidate.pixels else "[0, 1]"
    return [
        f'# Images are given as RGB in {unit}, resize = "{candidate.heads[0][1].resize}". Where training did otherwise,',
        "# declare colors, mean, std and resize.",
    ]
