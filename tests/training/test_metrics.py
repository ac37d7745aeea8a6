"""The metrics file: appended line by line, cut on resume, a half-written line passed over."""

import json

import pytest

from minidiff.errors import InputError
from minidiff.training import metrics


@pytest.fixture
def path(tmp_path):
    log = metrics.MetricsLog(tmp_path / "metrics.jsonl")
    for step in (5, 10, 15):
        log.append({"step": step, "loss": 1 / step})
    log.close()
    return tmp_path / "metrics.jsonl"


def steps(path):
    return [record["step"] for record in metrics.read(path)]


def test_records_come_back_bit_for_bit(path):
    assert metrics.read(path) == [{"step": k, "loss": 1 / k} for k in (5, 10, 15)]


def test_each_record_is_there_at_once(tmp_path):
    log = metrics.MetricsLog(tmp_path / "m")
    log.append({"step": 1, "loss": 1.0})
    assert steps(tmp_path / "m") == [1]
    log.sync()
    log.close()


def test_no_file_is_no_records(tmp_path):
    assert metrics.read(tmp_path / "nothing") == []


@pytest.mark.parametrize("cut_at", range(1, 24))
def test_a_half_written_last_line_is_passed_over(path, cut_at):
    whole = path.read_bytes()
    assert len(whole.splitlines()[-1]) > 23
    path.write_bytes(whole[:-cut_at])
    assert steps(path) == [5, 10]


@pytest.mark.parametrize(("step", "kept"), [(0, []), (4, []), (10, [5, 10]), (99, [5, 10, 15])])
def test_cut(path, step, kept):
    path.write_bytes(path.read_bytes() + b'{"step": 20, "lo')
    metrics.cut(path, step)
    assert steps(path) == kept
    assert path.read_bytes().endswith(b"\n") == bool(kept)
    log = metrics.MetricsLog(path)
    log.append({"step": 100, "loss": 0})
    log.close()
    assert steps(path) == [*kept, 100]


def test_cut_makes_no_file_out_of_nothing_but_an_empty_one(tmp_path):
    metrics.cut(tmp_path / "m", 3)
    assert metrics.read(tmp_path / "m") == []


@pytest.mark.parametrize(
    "line",
    ["nonsense", "[]", "3", "{}", "", "[" * 10**5, '{"step": 2}', '{"loss": 1}']
    + [f'{{"step": 2, "loss": {loss}}}' for loss in ('"x"', "[1]", "null", "NaN", "1e999", "true")]
    + [f'{{"step": {step}, "loss": 1}}' for step in ('"x"', "[1]", "9" * 400, "9" * 5000)],
)
def test_a_bad_line_is_named(path, line):
    good = json.dumps({"step": 1, "loss": 1.0})
    path.write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(InputError, match="line 2"):
        metrics.read(path)


def test_what_is_no_number_is_refused(tmp_path):
    log = metrics.MetricsLog(tmp_path / "m")
    with pytest.raises(ValueError):
        log.append({"step": 1, "loss": float("nan")})
    log.close()
