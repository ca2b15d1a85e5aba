"""``lowbit calibrate-study``: draws of calibration images, and what their spread says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lowbit import cli
from lowbit.cli import calibration
from lowbit.cli.calibration import Draw, draws
from lowbit.data.lists import CalibrationSet
from lowbit.errors import InputError
from tests.unit import toys


def pool(count: int) -> CalibrationSet:
    return CalibrationSet(Path("list.txt"), tuple(Path(f"{number}.png") for number in range(count)))


def test_a_draw_is_a_seeded_sample_and_the_whole_list_is_one() -> None:
    found = list(draws(pool(10), (4, 10), 3))
    assert [(size, seed) for size, seed, _ in found] == [(4, 0), (4, 1), (4, 2), (10, 0)]
    images = [one.paths for _, _, one in found]
    assert all(len(set(one)) == size for (size, _, _), one in zip(found, images, strict=True))
    assert len(set(images[:3])) == 3 and images[3] == pool(10).paths
    assert [one.paths for _, _, one in draws(pool(10), (4, 10), 3)] == images


@pytest.mark.parametrize(("sizes", "seeds", "said"), [((11,), 1, "list.txt has 10 images"), ((4,), 0, "--seeds 0")])
def test_what_the_list_does_not_have_is_refused(sizes: tuple[int, ...], seeds: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        list(draws(pool(10), sizes, seeds))


def test_the_spread_is_of_the_draws_and_the_error_of_the_images() -> None:
    found = [Draw(8, seed, drop, (drop - 0.0098, drop + 0.0098)) for seed, drop in enumerate((0.01, 0.02, 0.03))]
    lines = calibration.summary([*found, Draw(100, 0, 0.005, (0.0, 0.01))])
    assert "| 8 | 3 | 2.00 | 1.00 | 1.00 to 3.00 | 0.50 |" in lines
    assert "| 100 | 1 | 0.50 |  | 0.50 to 0.50 | 0.26 |" in lines
    (said,) = (line for line in lines if line.startswith("- "))
    assert "8 images" in said and "less than 2.77 points" in said  # 1.96 * sqrt(2)


def test_a_toy_is_built_from_every_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOWBIT_STORE", str(tmp_path / "store"))
    toys.make_detector(tmp_path / "toy.onnx")
    dataset, images = toys.make_dataset(tmp_path / "val"), toys.make_calibration(tmp_path / "calibration")
    own = ["--detector", str(tmp_path / "toy.onnx"), "--dataset", str(dataset), "--calibration", str(images)]
    assert cli.main(["calibrate-study", *own, "--sizes", "2", "--seeds", "2"]) == 0
    out = capsys.readouterr().out
    record = json.loads(Path(out.splitlines()[-1]).read_text())
    assert [(one["size"], one["seed"]) for one in record["draws"]] == [(2, 0), (2, 1)]
    built = [json.loads(path.read_text()) for path in (tmp_path / "store" / "artifacts").glob("*/manifest.json")]
    assert len({one["key"] for one in built if one["scheme"] == "int8-ort-minmax"}) == 2
    for scheme, said in (("fp32", "is not calibrated"), ("int8-modelopt-entropy-cpu", "starts from")):
        assert cli.main(["calibrate-study", *own, "--scheme", scheme]) == 2
        assert said in capsys.readouterr().err
