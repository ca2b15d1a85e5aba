"""Fetching from a server that misbehaves, for real, on this machine."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lowbit import cli
from lowbit.detector import fetch as fetching
from lowbit.detector import registry
from lowbit.detector.fetch import RECORD, Fetcher, FetchError, Source, fetch, parse_mirrors
from lowbit.errors import InputError, UnavailableError
from lowbit.progress import BYTES, Step
from tests.unit.waiting import PATIENCE

DATA = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(DATA).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.files``; the path's first part says how to misbehave."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *_: object) -> None:
        """Nothing on the test's screen."""

    def do_GET(self) -> None:
        how, _, name = self.path.strip("/").partition("/")
        self.server.asked[how] += 1
        self.server.ranges.append(self.headers.get("Range"))
        times = self.server.asked[how]
        if how == "moved":
            self._answer(302, b"", Location=f"/good/{name}")
        elif how == "busy" and times < 3:
            self._answer(503, b"later")
        elif how == "broken":
            self._answer(500, b"never")
        elif name not in self.server.files or how == "gone":
            self._answer(404, b"no such file")
        else:
            self._serve(self.server.files[name], how, times)

    def _serve(self, data: bytes, how: str, times: int) -> None:
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and how != "norange" else 0
        if start > len(data):
            return self._answer(416, b"")
        body = data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if how in ("cut", "norange") and times < 3:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return None
        if how == "slow":
            for at in range(0, len(body), 100_000):
                self.wfile.write(body[at : at + 100_000])
                time.sleep(0.02)
            return None
        self.wfile.write(body)
        return None

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Any]:
    made: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.files, made.asked, made.ranges = {"a.bin": DATA}, Counter(), []
    made.address = f"http://127.0.0.1:{made.server_address[1]}"
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def fetcher(folder: Path, **changes: Any) -> Fetcher:
    return Fetcher(folder, **{"mirrors": {}, "offline": False, "pause": 0.01, **changes})


def source(server: Any, how: str = "good", **more: Any) -> Source:
    return Source(f"{server.address}/{how}/a.bin", Path("sub", "a.bin"), **more)


@pytest.mark.parametrize("how", ["good", "moved", "busy", "slow", "cut", "norange"])
def test_it_arrives_whole(server: Any, tmp_path: Path, how: str) -> None:
    said: list[Step] = []
    path = fetcher(tmp_path, progress=said.append).fetch(source(server, how, sha256=SHA256))
    assert path.read_bytes() == DATA
    assert said[-1][:2] == ("a.bin", len(DATA)) and said[-1].unit == BYTES
    assert not list(path.parent.glob("*.partial"))
    assert json.loads((tmp_path / RECORD).read_text())["sub/a.bin"]["sha256"] == SHA256
    asked = sum(server.asked.values())
    fetcher(tmp_path).fetch(source(server, how, sha256=SHA256))
    assert sum(server.asked.values()) == asked, "fetched again"


def test_a_cut_download_is_resumed_by_the_same_run_and_the_next(server: Any, tmp_path: Path) -> None:
    fetcher(tmp_path).fetch(source(server, "cut"))
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.ranges[1:]]
    assert server.ranges[0] is None and len(starts) == 2 and 0 < starts[0] < starts[1] < len(DATA)
    (tmp_path / "sub" / "a.bin").unlink()
    (tmp_path / "sub" / ".a.bin.partial").write_bytes(DATA[:1000])
    assert fetcher(tmp_path).fetch(source(server)).read_bytes() == DATA
    assert server.ranges[-1] == "bytes=1000-"


def test_a_partial_file_of_something_longer_starts_again(server: Any, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".a.bin.partial").write_bytes(DATA * 2)
    assert fetcher(tmp_path).fetch(source(server)).read_bytes() == DATA


def test_a_wrong_hash_is_thrown_away_and_what_was_there_stays(server: Any, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.bin").write_bytes(b"mine")
    with pytest.raises(FetchError, match=f"sha256 {SHA256}, not {'0' * 64}"):
        fetcher(tmp_path).fetch(source(server, sha256="0" * 64))
    assert (tmp_path / "sub" / "a.bin").read_bytes() == b"mine"
    assert not list((tmp_path / "sub").glob("*.partial"))


def test_a_wrong_size_is_refused_before_it_is_downloaded(server: Any, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=f"offers {len(DATA)} bytes, 5 are expected"):
        fetcher(tmp_path).fetch(source(server, size=5))


def test_the_first_download_is_what_later_ones_must_be(server: Any, tmp_path: Path) -> None:
    path = fetcher(tmp_path).fetch(source(server))
    path.write_bytes(b"damaged")
    assert fetcher(tmp_path).fetch(source(server)).read_bytes() == DATA
    path.unlink()
    server.files["a.bin"] = DATA[:-1] + b"!"
    with pytest.raises(FetchError, match="serves something else"):
        fetcher(tmp_path).fetch(source(server))


@pytest.mark.parametrize(("how", "message"), [("gone", "answered 404"), ("broken", "answered 500, 5 times")])
def test_what_cannot_be_had_is_said_with_its_address(server: Any, tmp_path: Path, how: str, message: str) -> None:
    with pytest.raises(FetchError, match=message) as error:
        fetcher(tmp_path).fetch(source(server, how))
    assert f"{server.address}/{how}/a.bin" in str(error.value)
    assert server.asked[how] == (1 if how == "gone" else 5)


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"broke off .* run again to go on"):
        fetcher(tmp_path).fetch(Source("http://127.0.0.1:9/a.bin", Path("a.bin")))


def test_offline_uses_what_is_there_and_never_connects(server: Any, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"sub/a\.bin: is not there .* --offline"):
        fetcher(tmp_path, offline=True).fetch(source(server))
    fetcher(tmp_path).fetch(source(server))
    asked = sum(server.asked.values())
    assert fetcher(tmp_path, offline=True).fetch(source(server)).read_bytes() == DATA
    assert sum(server.asked.values()) == asked


def test_a_mirror_replaces_the_start_of_an_address(server: Any, tmp_path: Path) -> None:
    made = fetcher(tmp_path, mirrors={"https://official.example": f"{server.address}/good"})
    assert made.fetch(Source("https://official.example/a.bin", Path("a.bin"), sha256=SHA256)).read_bytes() == DATA
    assert parse_mirrors("https://a=https://b, https://c=d") == {"https://a": "https://b", "https://c": "d"}
    with pytest.raises(InputError, match="'nonsense' is not of the form"):
        parse_mirrors("nonsense")


def test_two_at_once_fetch_once(server: Any, tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=lambda: fetcher(tmp_path).fetch(source(server, "slow", sha256=SHA256)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert server.asked["slow"] == 1
    assert (tmp_path / "sub" / "a.bin").read_bytes() == DATA


def coco_zip(train: int, val: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        for split, count in (("train2017", train), ("val2017", val)):
            images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 8, "height": 8} for i in range(count, 0, -1)]
            boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 4, 4]} for i in range(1, count + 1)]
            text = json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]})
            packed.writestr(f"annotations/instances_{split}.json", text)
    return stream.getvalue()


def test_coco_subsets(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_MANY", 4)
    server.files[f"annotations/{fetching._ANNOTATIONS_ZIP}"] = coco_zip(12, 6)
    for split, count in (("train2017", 12), ("val2017", 6)):
        server.files |= {f"{split}/{i:012d}.jpg": f"{split} {i}".encode() for i in range(1, count + 1)}
    made = fetcher(tmp_path, mirrors={fetching._COCO: f"{server.address}/good"})
    (val,) = fetch("coco-val100", made)
    data = json.loads(val.read_text())
    assert [image["id"] for image in data["images"]] == [1, 2, 3, 4] and len(data["annotations"]) == 4
    assert (tmp_path / "coco" / "val2017" / "000000000004.jpg").read_bytes() == b"val2017 4"
    (calibration,) = fetch("coco-calib100", made)
    assert calibration.read_text().split() == [f"train2017/{i:012d}.jpg" for i in (1, 4, 7, 10)]
    calibration.write_text("mine\n")
    assert fetch("coco-calib100", made)[0].read_text() == "mine\n"


def test_an_archive_cannot_write_outside_its_folder(server: Any, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        image = {"id": 1, "file_name": "../../../evil.jpg", "width": 8, "height": 8}
        text = json.dumps({"images": [image], "annotations": [], "categories": []})
        packed.writestr("annotations/instances_val2017.json", text)
    server.files[f"annotations/{fetching._ANNOTATIONS_ZIP}"] = stream.getvalue()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        packed.writestr("val2017/evil.jpg", b"evil")
        packed.writestr("../../../evil.jpg", b"worse")
    server.files["zips/val2017.zip"] = stream.getvalue()
    folder = tmp_path / "a" / "b" / "c"
    fetch("coco-val5k", fetcher(folder, mirrors={fetching._COCO: f"{server.address}/good"}))
    assert (folder / "coco" / "val2017" / "evil.jpg").read_bytes() == b"evil"
    assert [path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("evil.jpg")] == ["a"]
    assert not list(tmp_path.glob("*.jpg")) and len(list(tmp_path.rglob("evil.jpg"))) == 1


def test_the_command(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fetch", "yolov99", "--to", str(tmp_path)]) == 2
    assert "no asset 'yolov99'. Known: yolov10n" in capsys.readouterr().err
    assert cli.main(["fetch", "yolov10n", "--to", str(tmp_path), "--offline"]) == 2
    assert "--offline forbids fetching https://github.com/THU-MIG" in capsys.readouterr().err
    mirror = f"{fetching._RELEASE}={server.address}/good"
    server.files["yolov10n.pt"] = DATA
    assert cli.main(["fetch", "yolov10n", "--to", str(tmp_path), "--mirror", mirror]) == 2
    assert f"has sha256 {SHA256}" in capsys.readouterr().err


def test_what_was_fetched_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOWBIT_ASSETS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert registry.assets_folder() is None
    (tmp_path / "lowbit" / "assets").mkdir(parents=True)
    assert registry.assets_folder() == tmp_path / "lowbit" / "assets"
