import json
import struct

import pytest

from common.errors import InputError
from jobs import figures
from scripts import plot_run
from tests.support.files import write


def write_log(directory, lines, end=""):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write(directory / "train_log.jsonl", text + end)
    return str(directory)


def training_line(step, loss):
    return {
        "step": step,
        "loss": loss,
        "mlm_loss": 7.0,
        "mlm_accuracy": step / 1000,
        "rtd_auc": 0.5 + step / 10_000,
        "learning_rate": step * 1e-6,
        "tokens_per_second": 900.0 + step,
    }


@pytest.fixture
def short(tmp_path):
    """Five training steps, with an evaluation after the third; the sixth is being written."""
    lines = [training_line(step, 40.0 - step) for step in (1, 2, 4, 6, 8)]
    evaluation = {"step": 4, "eval_loss": 37.5, "eval_mlm_accuracy": 0.25, "eval_rtd_auc": 0.75}
    lines.insert(3, evaluation)
    return write_log(tmp_path / "short", lines, end='{"step": 9, "lo')


def drawn(*directories):
    names = [directory.rpartition("/")[2] for directory in directories]
    *panels, legend = plot_run.draw(names, list(map(plot_run.read_log, directories))).axes
    return dict(zip(plot_run.PANELS, panels, strict=True)), legend


def points(line):
    return list(line.get_xdata()), list(line.get_ydata())


def labels(legend):
    return [text.get_text() for text in legend.get_legend().get_texts()]


def test_every_panel_shows_its_curve_and_the_evaluations(short):
    panels, legend = drawn(short)
    steps = [1, 2, 4, 6, 8]
    lines = [training_line(step, 40.0 - step) for step in steps]
    evaluations = {"loss": 37.5, "mlm_accuracy": 0.25, "rtd_auc": 0.75}
    for metric, axes in panels.items():
        assert axes.get_title() == plot_run.PANELS[metric] and axes.get_xlabel() == "step"
        curve, *marked = axes.lines
        assert points(curve) == (steps, [line[metric] for line in lines])
        assert curve.get_color() == figures.COLORS[0]
        expected = [([4], [evaluations[metric]])] if metric in evaluations else []
        assert [points(line) for line in marked] == expected
        assert all((m.get_marker(), m.get_linestyle()) == ("o", "None") for m in marked)
    assert panels["tokens_per_second"].get_ylim()[0] == 0
    assert labels(legend) == ["short", "evaluation"]


def test_long_noisy_curves_are_smoothed(tmp_path):
    losses = [30.0 + (-1) ** i for i in range(300)]
    path = write_log(tmp_path / "long", [training_line(i + 1, v) for i, v in enumerate(losses)])
    panels, legend = drawn(path)
    raw, smooth = panels["loss"].lines
    assert list(raw.get_ydata()) == losses and raw.get_alpha() == 0.25
    values = list(smooth.get_ydata())
    assert smooth.get_alpha() is None and list(smooth.get_xdata()) == list(range(1, 301))
    assert values[:2] == pytest.approx([31, (31 + 29 + 31) / 3]) and values[-1] == 30
    # 7 before, 7 after: one value more of one kind than of the other
    assert all(abs(value - 30.0) == pytest.approx(1 / 15) for value in values[7:-7])
    assert len(panels["learning_rate"].lines) == 1
    assert labels(legend) == ["long"]


def test_several_runs_share_the_panels(tmp_path, short):
    line = {"step": 3, "loss": 9.0, "mlm_accuracy": 0.5, "learning_rate": 0.1}
    other = write_log(tmp_path / "masked", [line])  # masked language modeling has no AUC
    panels, legend = drawn(short, other)
    alone = panels["loss"].lines[-1]
    assert points(alone) == ([3], [9.0]) and alone.get_marker() == "."
    assert alone.get_color() == figures.COLORS[1]
    assert {line.get_color() for line in panels["rtd_auc"].lines} == {figures.COLORS[0]}
    assert labels(legend)[:2] == ["short", "masked"]
    panels, _ = drawn(other)
    assert [text.get_text() for text in panels["rtd_auc"].texts] == ["not logged"]


def test_more_runs_than_colors_have_different_styles(short):
    panels, legend = drawn(*[short] * 8)
    curves = panels["learning_rate"].lines
    styles = {(line.get_color(), line.get_linestyle()) for line in curves}
    assert len(curves) == len(styles) == 8
    assert labels(legend)[:8] == ["short"] * 8


def test_the_picture(tmp_path, short, capsys):
    output = tmp_path / "curves.png"
    plot_run.main([short, "--output", str(output)])
    content = output.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == (13 * 130, 7 * 130)
    assert capsys.readouterr().out == f"{output}\n"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["curves.png"]


def test_equal_names_are_replaced_by_paths(tmp_path, short, monkeypatch):
    other = write_log(tmp_path / "other" / "short", [training_line(1, 2.0)])
    names = []
    monkeypatch.setattr(plot_run, "draw", lambda given, logs: names.append(given))
    monkeypatch.setattr(plot_run.figures, "save", lambda figure, path: None)
    plot_run.main([short, other])
    assert names == [[short, other]]


@pytest.mark.parametrize(
    ("lines", "end", "message"),
    [
        ([], "", "no training steps"),
        ([{"step": 3, "eval_loss": 1.0}], "", "no training steps"),
        ([training_line(1, 2.0)], "not\n", ", line 2: not JSON"),
        ([[1]], "", ", line 1: "),
        ([{"loss": 1.0}], "", ", line 1: `step`"),
        ([training_line(1, "x")], "", ", line 1: `loss` must be a number"),
    ],
)
def test_damaged_logs(tmp_path, lines, end, message):
    directory = write_log(tmp_path / "run", lines, end)
    with pytest.raises(InputError, match=rf"{directory}/train_log\.jsonl.*{message}"):
        plot_run.read_log(directory)


def test_wrong_paths(tmp_path, short):
    output = str(tmp_path / "no" / "run.png")
    for arguments, message in (
        ([short, str(tmp_path / "missing")], rf"{tmp_path}/missing/train_log\.jsonl"),
        ([short, "--output", str(tmp_path / "run.pdf")], r"`--output` .*run\.pdf"),
        ([short, "--output", output], f"`--output`: .*{tmp_path}/no$"),
    ):
        with pytest.raises(InputError, match=message):
            plot_run.main(arguments)
    assert not list(tmp_path.glob("*.png"))
