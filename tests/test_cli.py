"""The command line: what works, and one line with exit code 2 for whatever cannot."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minidiff
from minidiff.cli import _one_line_warnings, main
from minidiff.diffusion import schedules
from minidiff.diffusion.schedules import SCHEDULES
from minidiff.training import Run, Trainer, metrics, sampling
from tests.training.tiny import TINY, tiny, write_tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a tiny run that is finished; tests only read it."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_tiny(folder)
    assert main(["train", recipe, "--out", str(folder / "run"), "--set", "sample_every=6"]) == 0
    return folder / "run"


def contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ------------------------------------------------------------------------- what cannot work

NEW = "--out {tmp}/new"
SET = f"train {{tmp}}/tiny.toml {NEW} --set"
RUN = "sample {tmp}/run --out {tmp}/a.png"

BAD = {
    "dance": "invalid choice: 'dance'",
    "demo --out": "expected one argument",
    "demo --steps -1": "steps is -1",
    "demo --steps many": "invalid int value: 'many'",
    "demo --seed -1": "seed is -1",
    "demo --speed 3": "unrecognized arguments: --speed",
    "demo --out {tmp}/file": "is a file",
    "demo --out {tmp}/full": "not empty",
    "demo --out {tmp}/broken_link": "is a file or a broken link",
    "demo --out {tmp}/run": "another run",
    "train": "required: --out",
    f"train {NEW}": "say what to train: digits8",
    f"train digits9 {NEW}": "'digits9'; choose one of: digits8",
    f"train {{tmp}}/absent.toml {NEW}": "No such file",
    f"train {{tmp}}/folder.toml {NEW}": "Is a directory",
    f"train {{tmp}}/broken.toml {NEW}": "no valid TOML",
    f"train {{tmp}}/binary.toml {NEW}": "no valid TOML",
    f"train digits8 {NEW} --steps 0": "steps is 0",
    f"{SET} speed=3": "unknown setting speed",
    f"{SET} lr": "write key=value",
    f"{SET} lr=fast": "lr is 'fast'; it must be a number",
    f"{SET} lr=0": "more than 0",
    f"{SET} lr=nan": "finite",
    f"{SET} batch_size=0": "batch_size is 0",
    f"{SET} batch_size=2.5": "an integer",
    f"{SET} T=0": "T is 0",
    f"{SET} schedule=straight": "[schedule] name is 'straight'; it must be one of",
    f"{SET} schedule.beta_T=0.03": "'cosine' has no option 'beta_T'; its options are s, beta_max",
    f"{SET} schedule=linear --set schedule.beta_T=2": "every beta must lie in (0, 1)",
    f"{SET} objective.target=noise": "one of: eps, x0, v",
    f"{SET} objective=v": "objective is 'v'; it must be a table",
    f"{SET} unet.blocks={10**20}": "use fewer channels, multipliers or blocks",
    f"{SET} data=cats": "one of: digits",
    f"{SET} optimizer=sgd": "one of: adam, adamw",
    f"{SET} p_uncond=2": "from 0 to 1",
    f"{SET} ema_decay=1": "below 1",
    f"{SET} weight_decay=0.1": "adamw",
    f"{SET} unet=3": "table",
    f"{SET} unet.depth=3": "unknown setting unet.depth",
    f"{SET} unet.groups=3": "groups 3 do not divide",
    f"{SET} unet.image_size=16": "needs 8",
    f"{SET} unet.num_classes=3": "needs 10",
    f"{SET} lr.x=3": "lr is a value",
    "train digits8 --out {tmp}/run": "holds a run already",
    "train digits8 --out {tmp}/full": "not empty",
    "train digits8 --out {tmp}/file": "is a file",
    "train digits8 --out {tmp}/file/new": "Not a directory",
    "train --resume --out {tmp}/full": "is no run",
    "train --resume --out {tmp}/absent": "is no run",
    "train --resume --out {tmp}/run --steps 5": "has done 12 steps already",
    "train --resume --out {tmp}/run --set lr=1": "no recipe is given",
    "train digits8 --resume --out {tmp}/run": "began with another unet",
    "train --resume --out {tmp}/bad_config": "config.json: unknown setting lamp",
    "train --resume --out {tmp}/no_json": "config.json is damaged",
    "train --resume --out {tmp}/cut --steps 20": "weights.safetensors cannot be used",
    "train --resume --out {tmp}/bad_metrics --steps 20": "metrics.jsonl is damaged: line 1",
    "sample": "required: RUN",
    "sample {tmp}/absent": "is no run",
    "sample {tmp}/full": "is no run",
    "sample {tmp}/begun": "no checkpoint yet",
    "sample {tmp}/cut": "weights.safetensors cannot be used",
    f"{RUN} --n 0": "at least one image",
    f"{RUN} --n -5": "at least one image",
    f"{RUN} --class ten": "'ten'; the classes are: 0, 1",
    f"{RUN} --class": "expected at least one argument",
    f"{RUN} --steps 0": "steps must lie in 1..20",
    f"{RUN} --steps 21": "steps must lie in 1..20",
    f"{RUN} --sampler magic": "unknown sampler 'magic'",
    f"{RUN} --steps 5 --sampler ddpm --eta 1": "no option 'eta'",
    f"{RUN} --steps 5 --eta -1": "eta must be >= 0",
    f"{RUN} --steps 5 --eta 50": "largest",
    f"{RUN} --steps 5 --w nan": "w must be",
    f"{RUN} --steps 5 --w much": "invalid float value: 'much'",
    f"{RUN} --steps 5 --batch 0": "at least 1",
    f"{RUN} --steps 5 --seed -1": "seed",
    f"{RUN} --weights best": "invalid choice: 'best'",
    "sample {tmp}/run --out {tmp}/a.jpg": "a file that ends in .png",
    f"{RUN} --npz {{tmp}}/a.npy": "a file that ends in .npz",
    f"{RUN} --npz .npz": "a file that ends in .npz",
    "sample {tmp}/run --out {tmp}/there.png": "exists already",
    f"{RUN} --npz {{tmp}}/there.npz": "exists already",
    "sample {tmp}/run --out {tmp}/absent/a.png": "no folder",
    f"{RUN} --npz {{tmp}}/absent/a.npz": "no folder",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory, trained):
    """A folder full of what the bad commands meet."""
    tmp = tmp_path_factory.mktemp("world")
    write_tiny(tmp)
    (tmp / "file").write_text("a thesis")
    (tmp / "broken_link").symlink_to("nowhere")
    (tmp / "full").mkdir()
    (tmp / "full" / "thesis.tex").write_text("a thesis")
    (tmp / "folder.toml").mkdir()
    (tmp / "broken.toml").write_text("lr = = 3")
    (tmp / "binary.toml").write_bytes(bytes(range(128, 256)))
    (tmp / "there.png").write_text("a picture")
    (tmp / "there.npz").write_text("an archive")

    def copy(name):
        for path, content in contents(trained).items():
            place = tmp / name / path.relative_to(trained)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        return tmp / name

    copy("run")
    config = copy("bad_config") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lamp": 1}))
    (copy("no_json") / "config.json").write_text("{")
    weights = copy("cut") / "checkpoints/step-000012/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    log = copy("bad_metrics") / "metrics.jsonl"
    log.write_text("nonsense\n" + log.read_text())
    (tmp / "begun").mkdir()
    (tmp / "begun" / "config.json").write_bytes((trained / "config.json").read_bytes())
    return tmp


@pytest.mark.parametrize(("command", "message"), BAD.items(), ids=BAD)
def test_a_mistake_is_one_line_and_touches_nothing(world, capsys, monkeypatch, command, message):
    monkeypatch.chdir(world)
    before = contents(world)
    assert main(command.format(tmp=world).split()) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("minidiff: error: ") and message in error
    assert contents(world) == before and not (world / "new").exists()


def test_there_are_enough_of_them():
    assert len(BAD) >= 30


@pytest.mark.parametrize("raised", [OSError(28, "No space left on device"), MemoryError("8 EiB")])
def test_trouble_of_the_machine_is_one_line(tmp_path, capsys, monkeypatch, raised):
    def fail(*arguments, **options):
        raise raised

    monkeypatch.setattr(Trainer, "__init__", fail)
    assert main(["train", "digits8", "--out", str(tmp_path / "new")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("minidiff: error: ") and ("No space" in line or "memory" in line)
    assert not (tmp_path / "new").exists()


def in_shell(command, **environment):
    """Run `minidiff COMMAND` by a shell, where {it} stands for it."""
    it = f"{shlex.quote(sys.executable)} -m minidiff"
    return subprocess.run(
        ["bash", "-c", command.format(it=it)], capture_output=True,
        env=os.environ | {"PYTHONUNBUFFERED": ""} | environment,
    )  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="the shell's redirections")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_without_output_a_run_is_what_it_is_with_it(tmp_path, trained, closed):
    recipe, out = write_tiny(tmp_path), tmp_path / "run"
    options = "--set sample_every=6"
    assert in_shell(f"{{it}} train {recipe} --out {out} {options} {closed}").returncode == 0
    for name in ("checkpoints/step-000012/weights.safetensors", "config.json"):
        assert (out / name).read_bytes() == (trained / name).read_bytes()
    assert len(metrics.read(out / "metrics.jsonl")) == 12


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("train --resume --out {run} | true; exit ${{{{PIPESTATUS[0]}}}}", 141, ""),
        ("train --resume --out {run} >/dev/full", 2, "minidiff: error: No space left on device\n"),
    ],
)
def test_output_that_cannot_be_written(trained, command, code, said):
    done = in_shell("{it} " + command.format(run=trained))
    assert (done.returncode, done.stderr.decode()) == (code, said)


@pytest.mark.skipif(os.name == "nt", reason="names of files are text there")
def test_a_name_that_the_terminal_cannot_show(tmp_path):
    (tmp_path / "\u03c0").mkdir()
    done = in_shell(f"{{it}} sample {tmp_path}/\u03c0", PYTHONIOENCODING="ascii")
    assert done.returncode == 2 and b"\\u03c0 is no run" in done.stderr
    recipe = write_tiny(tmp_path)
    train = f"{{it}} train {recipe} --steps 1 --out {tmp_path}/\u03c0"
    done = in_shell(train, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and b"\\u03c0" in done.stdout


# ---------------------------------------------------------------------------------- what works


def test_help_and_version(capsys):
    assert main([]) == 0
    help_text = capsys.readouterr().out
    assert "minidiff demo" in help_text and "examples" not in help_text
    for command in ("--help", "demo --help", "train --help", "sample --help"):
        with pytest.raises(SystemExit, match="0"):
            main(command.split())
        assert command.startswith("--") or "examples:" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert minidiff.__version__ in capsys.readouterr().out


def test_help_and_readme_name_the_variables_of_the_environment(capsys):
    package = Path(minidiff.__file__).parent
    sources = "".join(path.read_text() for path in package.rglob("*.py"))
    known = set(re.findall(r"MINIDIFF_[A-Z]+", sources))
    assert len(known) == 3 and main([]) == 0
    assert known == set(re.findall(r"MINIDIFF_[A-Z]+", capsys.readouterr().out))
    assert known == set(re.findall(r"MINIDIFF_[A-Z]+", (package.parent / "README.md").read_text()))


@pytest.mark.parametrize("name", ["BACKEND", "KERNELS", "PRECISION"])
@pytest.mark.parametrize("value", ["jax", "Fast", "\u03c0", " "])
def test_an_unknown_value_of_a_variable_is_one_line(tmp_path, name, value):
    out = subprocess.run(
        [sys.executable, "-m", "minidiff", "demo", "--out", str(tmp_path / "new")],
        capture_output=True, text=True, env=os.environ | {f"MINIDIFF_{name}": value},
    )  # fmt: skip
    assert out.returncode == 2 and not (tmp_path / "new").exists()
    (line,) = out.stderr.splitlines()
    assert line.startswith(f"minidiff: error: MINIDIFF_{name}={value!r} is unknown; choose ")


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_trains_and_stands_in_the_help(tmp_path, capsys, name):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    listed = capsys.readouterr().out.split("schedule is one of")[1].replace(",", " ").split()
    assert name in listed[: len(SCHEDULES)]
    run = str(tmp_path / "run")
    settings = ["--set", f"schedule={name}", "--set", "T=100"]
    assert main(["train", write_tiny(tmp_path), "--out", run, "--steps", "1", *settings]) == 0
    assert main(["sample", run, "--n", "2", "--class", "3", "--steps", "2"]) == 0


def test_an_objective_and_options_of_the_schedule_reach_the_samples(tmp_path, monkeypatch):
    run, seen = str(tmp_path / "run"), []
    real_draw = sampling.draw

    def draw(model, schedule, *arguments, **options):
        seen.append((schedule.beta[-1], options["target"]))
        return real_draw(model, schedule, *arguments, **options)

    monkeypatch.setattr(sampling, "draw", draw)
    settings = ["schedule.beta_max=0.9", "objective.target=v", "objective.weight=min_snr"]
    settings += ["objective.times=cyclic", "sample_every=1"]
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["train", write_tiny(tmp_path), "--out", run, "--steps", "1", *words]) == 0
    assert main(["sample", run, "--n", "2", "--class", "3", "--steps", "2"]) == 0
    assert seen == [(pytest.approx(0.9), "v")] * 2


def test_a_schedule_that_does_not_end_in_noise_is_told_of_once(tmp_path, capsys):
    settings = ["--set", "schedule=linear", "--set", "T=50"]
    recipe, out = write_tiny(tmp_path), str(tmp_path / "run")
    assert main(["train", recipe, "--out", out, *settings, "--steps", "1"]) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "warning" in line)
    assert line.startswith("minidiff: warning: the prior term is ") and "T = 50 " in line

    with pytest.warns(UserWarning, match="of another kind"), _one_line_warnings():
        for T in (50, 50, 60, 50):
            schedules.linear(T)
        warnings.warn("of another kind", stacklevel=1)
    first, second = capsys.readouterr().err.splitlines()
    assert "T = 50 " in first and "T = 60 " in second


def test_help_loads_no_library():
    code = (
        "import sys; from minidiff.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print({'numpy', 'scipy', 'matplotlib', 'PIL', 'tqdm'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.endswith("set()\n")


def test_train_leaves_a_whole_run(trained):
    names = sorted(p.name for p in trained.iterdir())
    assert names == ["checkpoints", "config.json", "loss.png", "metrics.jsonl", "samples"]
    assert [p.name for p in (trained / "checkpoints").iterdir()] == ["step-000012"]
    pictures = sorted((trained / "samples").glob("*.png"))
    assert [p.name for p in pictures[:2]] == ["step-000006.png", "step-000012.png"]
    assert [r["step"] for r in metrics.read(trained / "metrics.jsonl")] == list(range(1, 13))
    with Image.open(trained / "loss.png") as image:
        assert image.size == (1080, 630)


def test_a_finished_run_is_not_trained_again(trained, capsys):
    before = contents(trained)
    assert main(["train", "--resume", "--out", str(trained)]) == 0
    assert "has done all its 12 steps" in capsys.readouterr().out
    assert contents(trained) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, trained, capsys, monkeypatch, number, code):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    real_step = Trainer.train_step

    def step(self):
        if self.step == 6:  # in the middle of step 7
            os.kill(os.getpid(), number)
        return real_step(self)

    monkeypatch.setattr(Trainer, "train_step", step)
    out = str(tmp_path / "my run")
    recipe = write_tiny(tmp_path)
    assert main(["train", recipe, "--out", out, "--set", "sample_every=6"]) == code
    text = capsys.readouterr().out
    assert "Step 7 of 12 is done and saved." in text
    assert f"minidiff train --resume --out '{out}'" in text
    assert Run.open(out).last_step() == 7
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    monkeypatch.setattr(Trainer, "train_step", real_step)
    assert main(["train", recipe, "--resume", "--out", out, "--set", "sample_every=6"]) == 0
    for name in ("weights.safetensors", "optimizer.safetensors", "state.json"):
        place = f"checkpoints/step-000012/{name}"
        assert (tmp_path / "my run" / place).read_bytes() == (trained / place).read_bytes()


def test_a_second_signal_stops_at_once(tmp_path, monkeypatch, capsys):
    def step(self):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second one should have stopped this")

    monkeypatch.setattr(Trainer, "train_step", step)
    assert main(["train", write_tiny(tmp_path), "--out", str(tmp_path / "run")]) == 130
    assert Run.open(tmp_path / "run").last_step() == 0
    assert "stopped" in capsys.readouterr().err


def test_more_steps_go_on(tmp_path, trained):
    out = tmp_path / "run"
    assert main(["train", write_tiny(tmp_path), "--out", str(out), "--steps", "5"]) == 0
    assert main(["train", "--resume", "--out", str(out), "--steps", "12"]) == 0
    name = "checkpoints/step-000012/weights.safetensors"
    assert (out / name).read_bytes() == (trained / name).read_bytes()


def test_sample_writes_a_grid_and_arrays(tmp_path, trained, capsys):
    def sample(*options):
        return main(["sample", str(trained), "--steps", "4", *options])

    out, npz = tmp_path / "a.png", tmp_path / "a.npz"
    files = ["--out", str(out), "--npz", str(npz)]
    assert sample(*files, "--class", "8", "3", "--n", "5", "--batch", "2") == 0
    assert str(out) in capsys.readouterr().out
    with np.load(npz, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    assert images.shape == (5, 8, 8, 1) and images.dtype == np.uint8
    assert labels.tolist() == [3, 3, 8, 8, 8] or labels.tolist() == [3, 3, 3, 8, 8]
    assert labels.dtype == np.int64
    with Image.open(out) as image:
        assert image.format == "PNG" and image.mode == "RGB"

    first = contents(tmp_path)
    assert sample(*files, "--force", "--class", "8", "3", "--n", "5", "--batch", "2") == 0
    assert contents(tmp_path) == first  # the same bits
    assert sample(*files, "--force", "--class", "8", "3", "--n", "5", "--seed", "1") == 0
    assert contents(tmp_path) != first
    assert sample(*files, "--force", "--sampler", "ddpm", "--weights", "model", "--w", "0") == 0
    with np.load(npz) as arrays:
        assert len(arrays["images"]) == 100
    assert sample(*files, "--force", "--eta", "1", "--n", "1") == 0


def test_the_default_name_tells_what_it_is(tmp_path, trained):
    before = set(contents(trained))
    assert main(["sample", str(trained), "--steps", "3", "--n", "4", "--class", "7", "9"]) == 0
    (new,) = set(contents(trained)) - before
    assert new == trained / "samples" / "ddim-steps3-w1-n4-class7+9-seed0.png"
    new.unlink()


def test_a_short_schedule_is_sampled_in_all_its_steps(trained):
    """This run has T = 20, and 100 steps would be refused: what is advised must work as it is."""
    before = set(contents(trained))
    assert main(["sample", str(trained), "--n", "2", "--class", "3", "3"]) == 0
    (new,) = set(contents(trained)) - before
    assert new.name == "ddim-steps20-w1-n2-class3-seed0.png"
    new.unlink()


def test_guidance_that_overflows_is_told_in_one_line(tmp_path, trained, capsys):
    """Without the RuntimeWarnings of the way there, which would be errors here."""
    out = tmp_path / "a.png"
    assert main(["sample", str(trained), "--n", "2", "--w", "1e300", "--out", str(out)]) == 2
    assert "not finite" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_folder_without_permission_is_refused_before_anything_is_drawn(
    tmp_path, trained, monkeypatch, capsys
):
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    assert main(["sample", str(trained), "--out", str(tmp_path / "a.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path} may not be written into" in line


def test_an_interrupted_sample_leaves_nothing(tmp_path, trained, monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("minidiff.plot.grid", interrupt)
    out = ["--out", str(tmp_path / "a.png"), "--npz", str(tmp_path / "a.npz")]
    assert main(["sample", str(trained), "--steps", "2", *out]) == 130
    assert not list(tmp_path.iterdir())


def test_a_model_without_classes(tmp_path, capsys):
    recipe = tmp_path / "plain.toml"
    recipe.write_text(TINY.replace("num_classes = 10\n", ""))
    run = str(tmp_path / "run")
    assert main(["train", str(recipe), "--out", run, "--set", "sample_every=12"]) == 0
    npz = tmp_path / "a.npz"
    assert main(["sample", run, "--steps", "2", "--npz", str(npz)]) == 0
    with np.load(npz) as arrays:
        assert list(arrays) == ["images"] and arrays["images"].shape == (10, 8, 8, 1)
    capsys.readouterr()
    for option in (["--class", "3"], ["--w", "1"]):
        assert main(["sample", run, "--steps", "2", "--force", *option]) == 2
        assert "without classes" in capsys.readouterr().err.splitlines()[-1]


def test_demo(tmp_path, capsys, monkeypatch):
    """From nothing to pictures in three steps, stopped once on the way, and not done twice."""
    small = tiny(tmp_path)
    monkeypatch.setattr("minidiff.training.config.read", lambda recipe: small)
    out, options = tmp_path / "demo", ["--steps", "3"]
    real_step = Trainer.train_step

    def step(self):
        os.kill(os.getpid(), signal.SIGINT)
        return real_step(self)

    monkeypatch.setattr(Trainer, "train_step", step)
    assert main(["demo", "--out", str(out), *options]) == 130
    assert f"minidiff demo --out {out}" in capsys.readouterr().out
    monkeypatch.setattr(Trainer, "train_step", real_step)
    assert main(["demo", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "stopped after step 1; going on" in text and "minidiff sample" in text
    for name in ("samples.png", "process.png", "process.gif", "loss.png"):
        assert str(out / name) in text
        with Image.open(out / name) as image:
            assert min(image.size) > 100
            assert getattr(image, "n_frames", 1) == (21 if name.endswith("gif") else 1)
    assert Run.open(out).config.steps == 3

    before = contents(tmp_path)
    assert main(["demo", "--out", str(out)]) == 0
    assert "finished demo" in capsys.readouterr().out
    assert main(["demo", "--out", str(out), "--steps", "4"]) == 2
    assert contents(tmp_path) == before
