"""``flopcount trace FILE``: the table, its choices, and one line for what it cannot read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flopcount import Report
from flopcount.cli import main
from tests.trace.recordings import annotation, event, kernel, launch, module, op, written

H100 = [{"id": 0, "name": "NVIDIA H100 80GB HBM3"}]
SQUARE = [1024, 1024]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Two steps: a product of 40 µs, a sum of 20 µs, a library's op of 10 µs, and a copy of 5."""
    events: list[Any] = []
    for step, start in ((4, 0), (5, 1000)):
        first = 10 * step
        events += [
            annotation(f"ProfilerStep#{step}", start, start + 900),
            module("Net_0", start + 1, start + 500),
            module("Linear_0", start + 2, start + 100),
            op("aten::mm", start + 5, start + 50, SQUARE, SQUARE),
            launch(first, start + 6),
            kernel(first, start + 200, start + 240, "void sgemm_128x128"),
            op("aten::add", start + 150, start + 180, SQUARE, SQUARE, 1),
            launch(first + 1, start + 151),
            kernel(first + 1, start + 240, start + 260, "add_kernel"),
            op("mylib::gather", start + 200, start + 220, SQUARE),
            launch(first + 2, start + 201),
            kernel(first + 2, start + 260, start + 270, "gather"),
            launch(first + 3, start + 600),
            event("gpu_memcpy", "Memcpy HtoD", start + 700, start + 705, (0, 7),
                  correlation=first + 3, device=0, stream=7),
        ]  # fmt: skip
    return written(tmp_path / "trace.json", events, deviceProperties=H100)


def run(*words: object) -> int:
    return main(["trace", *map(str, words)])


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each row of the table, by the first."""
    _, table = text.split("\n\n")[:2]
    lines = [line.split() for line in table.splitlines()[2:]]
    return {line[0]: line[1:] for line in lines}


def test_the_first_line_says_what_ran_and_how_much_is_counted(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """75 µs of work a step, 60 of it counted; 150 of 1900 µs."""
    assert run(recording) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == (
        "NVIDIA H100 80GB HBM3 · whole recording with 2 steps (4, 5) · "
        "0.15 ms of device time, 80.0 % of it counted · busy 0.15 ms, idle 1.75 ms"
    )
    assert out.splitlines()[1] == ("peaks of H100 SXM: float32 67 TFLOP/s, memory 3350 GB/s")
    assert "in no op, or launched before the recording: Memcpy HtoD (0.01 ms)" in out
    assert "* uncounted, with the bytes that are known: mylib.gather (2)" in out


def test_by_op(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A product of 2 x 1.074 GMAC in 80 µs: 53.7 TFLOP/s, 80 % of the peak of 67."""
    assert run(recording) == 0
    table = rows(capsys.readouterr().out)
    product = ["float32", "2", "2.147", "G", "4.295", "G", "25.17", "M", "0.080", "53.3", "%"]
    assert table["aten.mm"] == [*product, "53.7", "315", "80.1", "%", "compute"]
    # 12.58 MB in 20 µs are 629 GB/s, 18.8 % of 3350
    assert table["aten.add"][-4:] == ["629", "18.8", "%", "memory"]
    assert table["mylib.gather"][:2] == ["*", "float32"]
    assert table["mylib.gather"][-2:] == ["13.3", "%"]
    # counted ops took 120 µs, at least 64.1 for the product and 7.5 for the sum
    assert table["total"][-4:] == ["360", "59.7", "%", "compute"]


def test_by_module_kernel_and_shape(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(recording, "--by", "module") == 0
    table = rows(capsys.readouterr().out)
    assert table["Net_0"][:2] == ["*", "2"]
    assert table["Linear_0"][:3] == ["2", "2.147", "G"]
    assert table["total"][:2] == ["2.147", "G"]
    assert run(recording, "--by", "kernel") == 0
    table = rows(capsys.readouterr().out)
    assert table["sgemm_128x128"] == ["aten.mm", "2", "0.080", "53.3", "%"]
    assert table["add_kernel"] == ["aten.add", "2", "0.040", "26.7", "%"]
    assert run(recording, "--by", "shape") == 0
    out = capsys.readouterr().out
    assert "float32[1024, 1024], float32[1024, 1024], 1" in out
    assert "80.1 %  compute" in out


def test_steps(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, calls in (("4", "1"), ("4:5", "1"), ("4:6", "2")):
        assert run(recording, "--steps", words) == 0
        out = capsys.readouterr().out
        assert rows(out)["aten.mm"][1] == calls
        expected = "step 4" if calls == "1" else "2 steps (4, 5)"
        assert out.startswith(f"NVIDIA H100 80GB HBM3 · {expected} · ")


def test_another_device(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(recording, "--device", "a100 sxm 80gb", "--tf32") == 0
    out = capsys.readouterr().out
    assert "peaks of A100 SXM 80GB: TF32 156 TFLOP/s, memory 2039 GB/s" in out
    assert "34.4 %  compute" in out


def test_an_unknown_device_in_the_file_has_no_percentage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [op("aten::mm", 0, 4, SQUARE, SQUARE), launch(1, 1), kernel(1, 5, 45)]
    path = written(tmp_path / "trace.json", events, deviceProperties=[{"id": 0, "name": "Abacus"}])
    assert run(path) == 0
    out = capsys.readouterr().out
    assert out.startswith("Abacus · ")
    assert "its peaks are not known: name a known device by --device, or pass your own" in out
    assert "of roofline" not in out
    assert "53.7" in out


def test_the_report_is_written_too(recording: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    assert run(recording, "-o", target) == 0
    report = Report.from_json(target.read_text())
    assert report.run is not None
    assert report.run.busy == 150_000
    assert json.loads(target.read_text())["run"]["devices"] == ["NVIDIA H100 80GB HBM3"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.json"], "none.json: No such file or directory"),
        (["FILE", "--steps", "9"], "no step 9; it has 4, 5"),
        (["FILE", "--steps", "x"], "expected a step, 5, or several, 5:8, got 'x'"),
        (["FILE", "--steps", "5:5"], "there is no step from 5 up to 5"),
        (["FILE", "--device", "Abacus"], "the peaks of 'Abacus' are not known"),
        (["FILE", "-o", "report.xyz"], "known endings"),
        (["FILE", "--by", "color"], "invalid choice: 'color'"),
        (["FILE", "--device", "h100"], "known: H100 SXM, H100 PCIe, H100 NVL"),
        (["CPU", "--by", "kernel"], "no kernel is recorded: only the CPU worked"),
        ([], "the following arguments are required: FILE"),
    ],
)
def test_bad_input_has_one_line_and_exit_code_2(
    recording: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    files = {
        "FILE": recording,
        "CPU": written(recording.with_name("cpu.json"), [op("aten::mm", 0, 4, SQUARE, SQUARE)]),
    }
    assert run(*[files.get(word, word) for word in words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("flopcount: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"traceEvents": []}',
        b'{"traceEvents": [{"ph": "X"',
        b"\x1f\x8b\x08\x00",
        b"[1]",
    ],
)
def test_what_is_no_recording_has_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(data)
    assert run(path) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"flopcount: error: {path}: ")
    assert err.count("\n") == 1
