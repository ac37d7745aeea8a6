"""What the command line understands, and the help that teaches it."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from minidiff import __version__
from minidiff.errors import InputError


class _Parser(argparse.ArgumentParser):
    """Hands its errors to `minidiff.cli.main`; prints descriptions and examples as they are."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options
        )

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; '{self.prog} --help' shows what there is")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; its `command` is the name of one, or None."""
    parser = _Parser(
        prog="minidiff",
        description="Diffusion models from scratch in NumPy: train one, and draw images from it.",
        epilog="""\
begin with:
  minidiff demo                          learn to draw digits in a minute, no GPU needed
  minidiff sample runs/demo --class 7    draw sevens with what was learned

'minidiff COMMAND --help' explains a command.

environment:
  MINIDIFF_BACKEND=cupy         run everything on a GPU (numpy)
  MINIDIFF_PRECISION=tf32       there, multiply in fewer digits: faster (float32)
  MINIDIFF_KERNELS=reference    each fast kernel by its plain definition: slow (fast)
  OPENBLAS_NUM_THREADS=2        threads of NumPy's matrix products (1)""",
    )
    parser.add_argument("--version", action="version", version=f"minidiff {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_demo(commands)
    _add_train(commands)
    _add_sample(commands)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="train on handwritten digits, then draw some: pictures in a minute",
        description="""\
Train a small U-Net on the 1,797 real digits that come with the package, by DDPM's Algorithm 1,
then draw ten of each class with classifier-free guidance (w = 1). The folder then holds
  samples.png    the digits drawn, a row for each class
  process.png    how they came out of noise; process.gif is the film of it
  loss.png       the loss over the steps
and a run that 'minidiff sample' and 'minidiff train --resume' go on with.
Ctrl-C saves; the same command then goes on where it stopped.""",
        epilog="""\
examples:
  minidiff demo
  minidiff demo --steps 200 --out runs/hasty    two fifths of the training: what does it cost?""",
    )
    demo.add_argument("--out", default="runs/demo", metavar="DIR", help="its folder (%(default)s)")
    demo.add_argument("--steps", type=int, metavar="N", help="training steps (500)")
    demo.add_argument("--seed", type=int, metavar="N", help="of all that is random (0)")


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        help="train a recipe in a folder; stop and go on at any time",
        description="""\
Train a model. A recipe is a name that comes with the package (digits8) or a .toml file; each of
its settings can be changed by --set. The folder then holds config.json (all settings),
metrics.jsonl (the loss of each step), checkpoints/, samples/ and loss.png.
Ctrl-C finishes the step and saves. --resume goes on, to the same bits as without the stop.""",
        epilog="""\
examples:
  minidiff train digits8 --out runs/a
  minidiff train digits8 --out runs/b --set lr=1e-3 --set unet.channels=24 --steps 3000
  minidiff train digits8 --out runs/s --set schedule=linear --set schedule.beta_T=0.03
  minidiff train digits8 --out runs/v --set objective.target=v --set objective.weight=min_snr
  mpiexec -n 2 minidiff train digits8 --out runs/d      the same as in one process, but faster
  minidiff train my.toml --out runs/c
  minidiff train --resume --out runs/c                  after a stop or a crash
  minidiff train --resume --out runs/c --steps 5000     further than it was meant to go""",
    )
    train.add_argument("recipe", nargs="?", help="a recipe's name, or the path of a .toml file")
    train.add_argument("--out", required=True, metavar="DIR", help="the folder of the run")
    train.add_argument("--resume", action="store_true", help="go on with the run in --out")
    train.add_argument("--steps", type=int, metavar="N", help="how many steps in all")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KEY=VALUE",
        help="change a setting, as lr=1e-3 or unet.multipliers=[1,2,2]; may be repeated. The noise "
        "schedule is one of linear, cosine, sigmoid, quadratic, constant, karras (its options, as "
        "schedule.beta_T, are those of its function); objective.target is eps, x0 or v; "
        "objective.weight uniform or min_snr, with objective.gamma; objective.times uniform, "
        "stratified or cyclic",
    )


def _add_sample(commands: Any) -> None:
    sample = commands.add_parser(
        "sample",
        help="draw images from a trained model",
        description="""\
Draw images from the newest checkpoint of a run: a grid as PNG, and the arrays if asked for. A
model that knows classes draws equally many of each.""",
        epilog="""\
examples:
  minidiff sample runs/demo                             ten of each class
  minidiff sample runs/demo --class 3 8 --n 40 --w 3    threes and eights, stronger guidance
  minidiff sample runs/demo --steps 10                  quicker, coarser
  minidiff sample runs/demo --sampler dpmpp_2m --steps 10
  minidiff sample runs/demo --sampler ddpm --steps 1000
  minidiff sample runs/demo --n 1000 --npz digits.npz   images uint8 (N, H, W, C), labels int64""",
    )
    sample.add_argument("run", metavar="RUN", help="the folder of a run, such as runs/demo")
    sample.add_argument("--n", type=int, metavar="N", help="how many images (10 of each class)")
    sample.add_argument(
        "--class", nargs="+", dest="classes", metavar="C", help="names of the classes (all)"
    )
    sample.add_argument(
        "--w",
        type=float,
        metavar="W",
        help="guidance (1 + w) eps(c) - w eps(null): 0 is none, more is clearer and less varied "
        "(1, or 0 for a model without classes)",
    )
    sample.add_argument(
        "--sampler",
        default="ddim",
        metavar="NAME",
        help="without noise: ddim, euler, pndm, plms, dpmpp_2m, rk2 (Heun), edm; with noise in "
        "every step: ddpm, euler_ancestral, annealed_langevin, predictor_corrector (%(default)s)",
    )
    sample.add_argument(
        "--steps", type=int, metavar="N", help="at most T, those of the run (100, or T if fewer)"
    )
    sample.add_argument(
        "--eta", type=float, metavar="E", help="noise of ddim: 0 none (default), 1 as much as ddpm"
    )
    sample.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise (0)")
    sample.add_argument(
        "--batch", type=int, default=250, metavar="N", help="images drawn at a time (%(default)s)"
    )
    sample.add_argument(
        "--weights",
        default="ema",
        choices=("ema", "model"),
        help="their moving average, or those of the last step (%(default)s)",
    )
    sample.add_argument(
        "--out", metavar="FILE.png", help="the grid (a name in RUN/samples that says what it is)"
    )
    sample.add_argument("--npz", metavar="FILE.npz", help="write the arrays as well")
    sample.add_argument("--force", action="store_true", help="overwrite files that exist")
