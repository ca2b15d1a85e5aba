"""report.html and its images."""

from __future__ import annotations

import base64
import html.parser
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lowbit import cli
from lowbit.data.coco import load_coco
from lowbit.data.detections import Detections
from lowbit.measure import metrics
from lowbit.measure.metrics import Accuracy, ImageChange
from lowbit.report import gallery, summary, thresholds
from lowbit.report import html as report
from lowbit.results import (
    SCHEMA,
    ArtifactRecord,
    BehaviourRecord,
    ChangedImage,
    CrossCheck,
    CurveRecord,
    EngineRecord,
    Entry,
    ErrorKindsRecord,
    ErrorsRecord,
    LeftOut,
    OperatingPointRecord,
    PointRecord,
    ProposalRecord,
    RankedLayer,
    Results,
    RuntimeRecord,
    ShiftRecord,
    Status,
    SwapRecord,
    SweepRecord,
    read,
)
from lowbit.runtime import PRECISE
from tests.unit.synthetic_run import catalogue_run
from tests.unit.test_results import ENVIRONMENT, entry, latency

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Checker(html.parser.HTMLParser):
    """Collects attributes that could reach the network and tags that are not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag


def checked(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert not checker.open
    assert checker.scripts == 1
    assert all(link.startswith(("data:image/webp;base64,", "#")) for link in checker.links)
    return checker


def measured(scheme: str, drop: float, **more: Any) -> Entry:
    artifact = ArtifactRecord(path="m.onnx", sha256="a" * 64, bytes=2_000_000, weight_bits=8.1)
    interval = (drop - 0.01, drop + 0.01)
    timing = latency(1.2, 1.1, 1.3)
    return entry(scheme, drop, drop_ci=interval, threshold=0.01, artifact=artifact, latency=timing, **more)


def page(folder: Path, *entries: Entry) -> str:
    results = Results(schema=SCHEMA, run_id="r1", started="now", environment=ENVIRONMENT, entries=list(entries))
    return report.page(results, folder)


def test_the_verdict_comes_first(tmp_path: Path) -> None:
    good = page(tmp_path, measured("fp32", 0.0), measured("int8-ort-minmax", 0.002))
    bad = page(
        tmp_path, measured("fp32", 0.0), measured("int8-ort-minmax", 0.2, status=Status.FAILED, reason="drop 20 points")
    )
    known = page(
        tmp_path, measured("fp32", 0.0), measured("int8-a", 0.2, status=Status.FAILED, expected_failure="known")
    )
    assert "The gate is open" in good and "Do not merge" not in good
    assert bad.index("Do not merge") < bad.index("<table") and "drop 20 points" in bad
    assert "The gate is open" in known and "(expected)" in known


def test_charts_tables_and_no_network(tmp_path: Path) -> None:
    drops = {"map_small": 0.011, "map_medium": 0.002, "recall": 0.03, "score_shift": 0.0, "map": 0.01}
    shown = measured("int8-ort-minmax", 0.01, drops=drops, class_drops={"cat": 0.05, "dog": -0.01})
    text = page(tmp_path, measured("fp32", 0.0), shown)
    checked(text)
    assert text.count("<svg") == 2
    assert "cat 5.00" in text and "1.10" in text
    assert page(tmp_path, measured("fp32", 0.0), shown) == text


def test_sensitive_layers_are_a_chart(tmp_path: Path) -> None:
    harm = {f"model.{number}.conv": 10.0 + number for number in range(30)}
    text = page(tmp_path, measured("fp32", 0.0), measured("int8-modelopt-k5", 0.01, layer_sqnr=harm))
    checked(text)
    assert text.count("<svg") == 3
    assert "model.0.conv" in text and "model.25.conv" not in text and "20 most sensitive" in text


def test_two_opinions_of_a_sweep(tmp_path: Path) -> None:
    """The layer that they place furthest apart is named first, in the page and in the summary's columns."""
    ranks = [("a", 1, 1), ("b", 2, 4), ("c", 3, 2), ("<d>", 4, 3)]
    layers = [
        RankedLayer(layer=name, score=9.0 - one, rank=one, graph_rank=two, alone_db=10.0 + two, leave_one_out_db=3.0)
        for name, one, two in ranks
    ]
    sweep = SweepRecord(
        detector="d", combination="int8-int8-per_layer", images=16, graph_images=4, rank_correlation=0.4, layers=layers
    )
    results = Results(schema=SCHEMA, run_id="r1", started="now", environment=ENVIRONMENT, entries=[], sweeps=[sweep])
    text = report.page(results, tmp_path)
    checked(text)
    assert "Nothing was gated" in text and "The gate is open" not in text
    assert "rank correlation 0.40" in text and "1 b (2 and 4)" in text and "<d>" not in text
    assert "| 0.40 | `a`, `b`, `c` | `a`, `c`, `&lt;d>` |" in summary.markdown(results)
    assert summary.markdown(results).endswith("\nnow, Python 3.11.7, onnxruntime-gpu 1.\n")
    results.write(tmp_path / "results.json")
    assert read(tmp_path / "results.json") == results


def test_a_second_tool_is_put_beside_the_first(tmp_path: Path) -> None:
    found = CrossCheck(
        scheme="int8-modelopt-entropy",
        ap_difference=0.0012,
        ap_interval=(-0.002, 0.004),
        rank_correlation=0.9,
        disagreements=["a<b", "c"],
    )
    said = "AP +0.12 points [-0.20, +0.40], rank correlation of what convolutions suffer 0.90, furthest apart"
    one = measured("int8-nncf", 0.001, crosscheck=found)
    text = page(tmp_path, one)
    checked(text)
    assert f"{said} a&lt;b, c" in text
    assert f"- `int8-nncf` beside `int8-modelopt-entropy`: {said} `a&lt;b`, `c`" in summary.markdown(
        Results(schema=SCHEMA, run_id="r1", started="now", environment=ENVIRONMENT, entries=[one])
    )


def test_what_an_artifact_was_built_without_is_said_once(tmp_path: Path) -> None:
    left = [LeftOut(rewrite="lean decode tail", reason="differs on image 1.")]
    record = ArtifactRecord(path="m.onnx", sha256="a" * 64, bytes=1, left_out=left)
    names = ("int8-ort-minmax", "int8-ort-entropy")
    entries = [measured(name, 0.001).model_copy(update={"artifact": record}) for name in names]
    text = page(tmp_path, *entries)
    checked(text)
    assert text.count("Left out of int8-ort-minmax, int8-ort-entropy: lean decode tail (differs on image 1)") == 1
    run = Results(schema=SCHEMA, run_id="r1", started="now", environment=ENVIRONMENT, entries=entries)
    assert summary.markdown(run).count("- Left out of `int8-ort-minmax`, `int8-ort-entropy`: lean decode tail (") == 1


def test_kernels_kept_from_saturating_are_said_with_what_they_cost(tmp_path: Path) -> None:
    ran = RuntimeRecord(provider="CPUExecutionProvider", options={"config": dict([PRECISE])})
    one = measured("w8a8-brevitas-cpu", 0.001, runtime=ran)
    assert one.latency is not None
    timing = one.latency.model_copy(update={"precision_cost": 1.42, "precision_cost_ci": (1.4, 1.45)})
    timed = one.model_copy(update={"latency": timing})
    text = page(tmp_path, timed)
    checked(text)
    said = "so it ran with session.x64quantprecision=1, which takes 1.42x [1.40, 1.45] the time"
    assert said in text
    assert said not in page(tmp_path, one) and "session.x64quantprecision=1" in page(tmp_path, one)
    plain = ran.model_copy(update={"options": {"config": {}}})
    assert "session.x64quantprecision" not in page(tmp_path, one.model_copy(update={"runtime": plain}))


def test_an_engine_is_said_in_a_sentence(tmp_path: Path) -> None:
    engine = EngineRecord(
        layers={"INT8": 80, "FP32": 7},
        float_convolutions=["a<b", *"cdefg"],
        p50=0.0008,
        p90=0.001,
        p95=0.001,
        p99=0.002,
        speedup=2.5,
        speedup_ci=(2.4, 2.6),
        mac_fractions={"INT8": 0.9126, "FP32": 0.0874},
        build_seconds=70.5,
        build_log=["a warning"],
    )
    one = measured("int8-modelopt-entropy", 0.001, engine=engine)
    text = page(tmp_path, one)
    checked(text)
    said = "as a TensorRT engine: p50 0.800 ms, 2.50x [2.40, 2.60] its FP32 engine; layers 80 in INT8, 7 in FP32"
    said += "; multiply-accumulates 91.3% in INT8, 8.7% in FP32"
    assert f"int8-modelopt-entropy {said}; 6 convolutions in float" in text and "a<b" not in text
    half = one.model_copy(update={"scheme": "fp16"})
    written = summary.markdown(
        Results(schema=SCHEMA, run_id="r1", started="now", environment=ENVIRONMENT, entries=[one, half])
    )
    assert f"{said}; 6 convolutions in float: `a&lt;b`, `c`, `d`, `e`, `f`, ...\n" in written
    assert f"`fp16` {said}\n" in written


def operating_point(same_precision: tuple[float, float, float] | None, **more: Any) -> OperatingPointRecord:
    """FP32 at 0.25 and its best F1 at 0.3; a quantized detector whose threshold is ``same_precision`` with its interval."""
    curve = CurveRecord(thresholds=[0.001, 0.5, 0.9], precision=[0.1, 0.75, None], recall=[0.8, 0.4, 0.0])

    def point(threshold: float, precision: float | None, recall: float) -> PointRecord:
        return PointRecord(threshold=threshold, precision=precision, recall=recall, f1=0.55)

    def behaviour(at: PointRecord, best: float, error: float) -> BehaviourRecord:
        return BehaviourRecord(at_confidence=at, best_f1=point(best, 0.5, 0.5), calibration_error=error, curve=curve)

    fields: dict[str, Any] = {
        "confidence": 0.25,
        "reference": behaviour(point(0.25, 0.747, 0.42), 0.3, 0.15),
        "quantized": behaviour(point(0.25, 0.81, 0.37), 0.27, 0.18),
        "same_precision": same_precision
        and ProposalRecord(at=point(same_precision[0], 0.751, 0.4), interval=same_precision[1:]),
        "same_recall": ProposalRecord(at=point(0.201, 0.69, 0.42), interval=(0.187, 0.2105)),
        "score_shift": {name: ShiftRecord(median=fall, objects=count) for name, fall, count in SHIFTS},
    }
    return OperatingPointRecord(**fields | more)


# Too few objects; the others by how far, up or down.
SHIFTS = [("<rare>", 0.5, 9), ("cat", 0.02, 10), ("dog", -0.04, 30), *((f"c{n}", 0.001 * n, 20) for n in range(5))]


def test_a_scheme_says_which_threshold_it_needs() -> None:
    said = thresholds.advice(operating_point((0.216, 0.21304, 0.242)))
    assert said == (
        "Use 0.216 [0.213, 0.242] where you used 0.25: precision 0.75 as FP32 had, recall 0.40 instead of 0.42."
    )
    assert thresholds.details(operating_point((0.216, 0.213, 0.242))) == [
        "FP32's recall, 0.42, needs 0.201 [0.187, 0.21]: precision 0.69 instead of 0.75 there.",
        "F1 is best at 0.27 (0.55), FP32's at 0.3 (0.55).",
        "Calibration error, how far scores are from precision: 0.180, FP32 0.150.",
        "Median change of scores by class (and how many objects both find), largest first: dog +0.040 (30), cat -0.020 (10), "
        "c4 -0.004 (20), c3 -0.003 (20), c2 -0.002 (20).",
    ]


@pytest.mark.parametrize("interval", [(0.2, 0.25), (0.2, 0.3)])
def test_a_threshold_within_the_interval_is_kept(interval: tuple[float, float]) -> None:
    said = thresholds.advice(operating_point((0.216, *interval)))
    assert said.startswith(
        "Keep 0.25: precision 0.81 instead of 0.75, recall 0.37 instead of 0.42. FP32's precision needs"
    )
    assert f"0.216 [0.2, {interval[1]:g}], and the 95 % CI contains 0.25." in said


def test_what_no_threshold_reaches_is_said() -> None:
    found = operating_point(None, same_recall=None, score_shift={})
    assert thresholds.advice(found) == ("No threshold has FP32's precision, 0.75 at 0.25.")
    assert thresholds.details(found)[0] == "No threshold has FP32's recall, 0.42 at 0.25."
    assert len(thresholds.details(found)) == 3
    for precision in (None, 0.0):
        blind = PointRecord(threshold=0.25, precision=precision, recall=0.0, f1=0.0)
        nothing = found.reference.model_copy(update={"at_confidence": blind, "calibration_error": None})
        found = found.model_copy(update={"reference": nothing})
        assert "FP32 finds no object at a threshold of 0.25" in thresholds.advice(found)
        assert thresholds.details(found)[1].endswith("0.180, FP32 undefined, for nothing is detected.")


def test_thresholds_are_in_page_and_summary(tmp_path: Path) -> None:
    """A chart and a sentence a scheme in the page, one line for all in the summary; what was not measured is left out."""
    schemes = {"int8-a": operating_point((0.216, 0.213, 0.242)), "<i>b": operating_point(None, same_recall=None)}
    entries = [measured(scheme, 0.01, operating_point=point) for scheme, point in schemes.items()]
    text = page(tmp_path, measured("fp32", 0.0), *entries)
    checked(text)
    assert text.count("<svg") == 2 + 2 and text.count("where you used 0.25") == 1 and "<i>" not in text
    assert "square: int8-a at 0.216" in text and "stroke-dasharray" in text
    # The last threshold keeps nothing, and a curve ends before it.
    assert "nan" not in text[: text.index("<script>")].lower()
    results = Results(schema=SCHEMA, run_id="r1", started="now", environment=ENVIRONMENT, entries=entries)
    line = "Threshold with the precision that FP32 has at 0.25: `int8-a` 0.216 [0.213, 0.242], `&lt;i>b` at none"
    assert f"- {line}\n" in summary.markdown(results)
    assert "Threshold with" not in summary.markdown(results.model_copy(update={"entries": [measured("fp32", 0.0)]}))
    results.write(tmp_path / "results.json")
    assert read(tmp_path / "results.json") == results
    assert "Confidence thresholds" not in page(tmp_path, measured("fp32", 0.0), measured("int8-a", 0.01))


def test_kinds_of_errors_are_beside_those_of_fp32(tmp_path: Path) -> None:
    before, after = (
        ErrorKindsRecord(counts={"localization": n, "missed": 5}, ap50_costs={"localization": cost, "missed": 0.1})
        for n, cost in ((7, 0.011), (12, 0.034))
    )
    swap = SwapRecord(true="cat", taken_for="dog", before=1, after=4)
    found = ErrorsRecord(reference=before, quantized=after, swaps=[swap])
    text = page(tmp_path, measured("fp32", 0.0), measured("int8-ort-minmax", 0.01, errors=found))
    checked(text)
    assert "<td>7 (1.10)</td>" in text and "<td>12 +5 (3.40)</td><td>5 (10.00)</td>" in text
    assert "cat for dog (1 to 4)" in text


def test_what_a_detector_is_called_cannot_become_html(tmp_path: Path) -> None:
    nasty = measured("int8-ort-minmax", 0.2, status=Status.FAILED, reason="<script>alert(1)</script>")
    nasty = nasty.model_copy(update={"detector": "<b>bold", "scheme": "<i>x", "layer_sqnr": {"<u>y": 1.0}})
    other = measured("fp32", 0.0).model_copy(update={"detector": "<b>bold"})
    text = page(tmp_path, other, nasty)
    checked(text)
    assert "<b>bold" not in text and "<i>x" not in text and "<u>y" not in text


def test_skips_are_listed_and_nothing_measured_is_fine(tmp_path: Path) -> None:
    text = page(tmp_path, Entry(detector="toy", scheme="fp32", provider="cuda", status=Status.SKIPPED, reason="no GPU"))
    checked(text)
    assert "no GPU: fp32 (cuda)" in text and "<svg" not in text


def test_images_are_embedded_from_the_run_only(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "images").mkdir(parents=True)
    for path in (folder / "images" / "a.jpg", tmp_path / "secret.jpg"):
        cv2.imwrite(str(path), np.full((40, 60, 3), 90, np.uint8))
    (folder / "images" / "torn.jpg").write_bytes(b"no image")
    files = ("images/a.jpg", "../secret.jpg", "images/torn.jpg")
    images = [ChangedImage(file=file, image="a.jpg", lost=2, gained=0) for file in files]
    text = page(folder, measured("fp32", 0.0), measured("int8-a", 0.0, changed_images=images))
    (link,) = (link for link in checked(text).links if link.startswith("data:"))
    data = np.frombuffer(base64.b64decode(link.removeprefix("data:image/webp;base64,")), np.uint8)
    assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape == (40, 60, 3)
    assert "2 more in the run" in text


def test_images_are_of_what_is_recommended_failed_or_inconclusive(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.jpg"), np.full((40, 60, 3), 90, np.uint8))
    images = [ChangedImage(file="images/a.jpg", image="a.jpg", lost=2, gained=0)]
    ends = {"best": Status.PASSED, "good": Status.PASSED, "bad": Status.FAILED, "maybe": Status.INCONCLUSIVE}
    drops = dict(zip(ends, (0.001, 0.002, 0.05, 0.009), strict=True))
    entries = [measured(s, drops[s], status=end, changed_images=images) for s, end in ends.items()]
    text = page(tmp_path, measured("fp32", 0.0), *entries)
    assert re.findall(r"left FP32, right (\w+)<", text) == ["best", "bad", "maybe"]


def test_a_run_of_the_whole_catalogue_stays_under_3_megabytes(tmp_path: Path) -> None:
    """Though every scheme failed with images that no format compresses; a scheme without images takes under 40 kB."""
    run = catalogue_run(tmp_path, schemes=40, status=Status.FAILED, pictures=1)
    for one in run.entries:
        one.changed_images = one.changed_images and one.changed_images * 3
    assert len(report.page(run, tmp_path).encode()) < 3_000_000
    bare = [len(report.page(catalogue_run(tmp_path, schemes=n), tmp_path).encode()) for n in (10, 20)]
    assert bare[1] - bare[0] < 10 * 40_000


def test_report_command_writes_both_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = Results(
        schema=SCHEMA, run_id="r1", started="now", environment=ENVIRONMENT, entries=[measured("fp32", 0.0)]
    )
    results.write(tmp_path / "results.json")
    assert cli.main(["report", str(tmp_path)]) == 0
    assert "<!doctype html>" in (tmp_path / "report.html").read_text()
    assert "| fp32 |" in (tmp_path / "summary.md").read_text()
    assert cli.main(["report", str(tmp_path / "nowhere")]) == 2
    assert "Run the gate first" in capsys.readouterr().err


def accuracy(scores: list[float], images: list[int], confidence: float = 0.25) -> Accuracy:
    made = object.__new__(Accuracy)
    object.__setattr__(made, "object_scores", np.array(scores))
    object.__setattr__(made, "object_images", np.array(images))
    object.__setattr__(made, "confidence", confidence)
    return made


def test_changed_images_by_hand() -> None:
    owners = [0, 0, 1, 1, 2, 3, 3]
    scores = [0.9, 0.8, 0.9, 0.1, 0.3, 0.6, 0.0], [0.9, 0.2, 0.1, 0.9, 0.3, 0.7, 0.5]
    before, after = (accuracy(one, owners) for one in scores)
    assert metrics.changed_images(before, after, 5) == [
        ImageChange(0, 1, 0),
        ImageChange(1, 1, 1),
        ImageChange(3, 0, 1),
    ]
    # At the user's threshold what image 3 gains is no object any more.
    before, after = (accuracy(one, owners, 0.75) for one in scores)
    assert metrics.changed_images(before, after, 5) == [ImageChange(0, 1, 0), ImageChange(1, 1, 1)]


def test_the_worst_and_the_best_are_chosen_once() -> None:
    changes = [ImageChange(4, 5, 0), ImageChange(2, 2, 1), ImageChange(7, 1, 1), ImageChange(1, 0, 3)]
    assert [c.image for c in gallery.choose(changes)] == [4, 2, 1]
    assert gallery.choose(changes[2:3]) == []
    assert [c.image for c in gallery.choose(changes[:1])] == [4]
    assert gallery.choose([]) == []


def test_images_show_both_detectors(tmp_path: Path) -> None:
    grey = np.full((60, 90, 3), 128, np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), grey)
    annotations = tmp_path / "instances.json"
    annotations.write_text(
        '{"images": [{"id": 1, "file_name": "a.png", "width": 90, "height": 60}],'
        '"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 30]}],'
        '"categories": [{"id": 1, "name": "thing"}]}'
    )
    dataset = load_coco(annotations)
    box = np.array([[40, 25, 70, 50]], np.float32)
    sees = {1: Detections(box, np.array([0.9], np.float32), np.array([0]))}
    blind = {1: Detections(box, np.array([0.1], np.float32), np.array([0]))}
    (record,) = gallery.save(dataset, [ImageChange(0, 1, 0)], sees, blind, tmp_path, "toy-int8", 0.25)
    assert (record.file, record.image, record.lost) == ("images/toy-int8-1.jpg", "a.png", 1)
    drawn = cv2.imread(str(tmp_path / record.file), cv2.IMREAD_GRAYSCALE)
    left, right = drawn[:, :420], drawn[:, -420:]
    assert left.shape == right.shape == (280, 420)
    ratio = 420 / 90
    edge = (slice(int(30 * ratio), int(45 * ratio)), int(70 * ratio))
    assert left[edge].std() < 60 and abs(float(left[edge].mean()) - 128) > 40
    assert abs(float(right[edge].mean()) - 128) < 10
    assert re.fullmatch(r"[a-z0-9/.-]+", record.file)
    (record,) = gallery.save(dataset, [ImageChange(0, 1, 0)], sees, blind, tmp_path, "toy-int8", 0.1)
    drawn = cv2.imread(str(tmp_path / record.file), cv2.IMREAD_GRAYSCALE)
    assert abs(float(drawn[:, -420:][edge].mean()) - 128) > 40
