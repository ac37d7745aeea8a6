"""What a sampler costs beside the network: its own arithmetic, and its memory.

    python -m benchmarks.samplers [--config mnist-small] [--batch 64] [--threads 1]

Three questions, with the limits that the samplers are held to:

- How long does a step take without the network, and what share is that of an evaluation of the
  U-Net on as many images? At most 2 %. The denoiser in its place returns an array that is there
  already. Random numbers are part of it; the line above the table says what one draw takes.
- How many arrays of the size of the images are there at most in a step? Two are the state that the
  caller still holds, two that which is being made, and one is scratch. What a method must remember
  beyond that is named. (Measured by tracemalloc, which NumPy tells of its arrays.)
- How long do 1,000 steps of DDPM on 1,024 points in the plane take? At most a second.

Exits with 1 if a limit is missed. Times are CPU times of this process, the least of some runs, so
that a busy machine matters little.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

SHARE, SECONDS = 0.02, 1.0
STEPS = 20

# Arrays at the peak of a step beyond 2 + 2 + 1, and what they are.
REMEMBERED = {
    "ddpm": (0, ""),
    "ddim": (0, ""),
    "pndm": (1, "the mixed eps (and three eps, which the denoiser made)"),
    "plms": (1, "the mixed eps (and three eps, which the denoiser made)"),
    "euler": (1, "x in sigma"),
    "euler_ancestral": (2, "x in sigma, at both ends of a step"),
    "rk2": (4, "x in sigma, the slope, the point that it leads to, and the prediction there"),
    "edm": (4, "x in sigma, the slope, the point that it leads to, and the prediction there"),
    "dpmpp_2m": (2, "x in sigma, the extrapolated prediction"),
    "annealed_langevin": (1, "x between two corrections"),
    "predictor_corrector": (1, "x between two corrections"),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.samplers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", default="mnist-small", help="U-Net (default mnist-small)")
    parser.add_argument("--batch", type=int, default=64, help="images (default 64)")
    parser.add_argument("--threads", type=int, default=1, help="of BLAS (default 1)")
    args = parser.parse_args(arguments)
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(args.threads)  # read when NumPy loads
    return report(args.config, args.batch)


def report(config: str, batch: int) -> int:
    """Measure, print, and return the exit code."""
    import numpy as np

    from benchmarks.configs import CONFIGS, model
    from minidiff.diffusion import samplers, schedules

    schedule = schedules.linear()
    unet = CONFIGS[config]
    shape = (batch, unet.image_size, unet.image_size, unet.in_channels)
    network = evaluation_seconds(model(unet), shape)
    draws = least(lambda: np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    print(f"An evaluation of {config} on {batch} images: {1e3 * network:.1f} ms.")
    print(f"A draw of as many random numbers: {1e3 * draws:.2f} ms.\n")
    print(f"{'sampler':20} {'us a step':>9} {'of U-Net':>8} {'arrays':>6}  remembers")
    missed = []
    for name in samplers.SAMPLERS:
        seconds = own_seconds(samplers.make(name, steps=STEPS), schedule, shape)
        share = seconds / samplers.nfe(name, STEPS) / network
        arrays = peak_arrays(samplers.make(name, steps=STEPS), schedule, shape)
        beyond, what = REMEMBERED[name]
        print(f"{name:20} {1e6 * seconds / STEPS:9.0f} {share:8.2%} {arrays:6.1f}  {what}")
        if share > SHARE:
            missed.append(f"{name} takes {share:.1%} of an evaluation, more than {SHARE:.0%}")
        if arrays > 5 + beyond + 0.1:
            missed.append(f"{name} has {arrays:.1f} arrays, more than {5 + beyond}")
    seconds = own_seconds(samplers.make("ddpm"), schedule, (1024, 2), runs=3)
    print(f"\n1,000 steps of DDPM on 1,024 points in the plane: {seconds:.2f} s.")
    if seconds > SECONDS:
        missed.append(f"1,000 steps of DDPM take {seconds:.2f} s, more than {SECONDS}")
    print(*(f"MISSED: {line}" for line in missed), sep="\n", end="")
    return 1 if missed else 0


def least(f: Callable[[], Any], runs: int = 5) -> float:
    """CPU seconds of the fastest of some runs."""
    times = []
    for _ in range(runs):
        start = time.process_time()
        f()
        times.append(time.process_time() - start)
    return min(times)


def evaluation_seconds(net: Any, shape: tuple[int, ...]) -> float:
    """CPU seconds of one evaluation of the network."""
    import numpy as np

    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    t = np.full(shape[0], 500)
    net.denoise(x, t)  # the first fills caches
    return least(lambda: net.denoise(x, t), runs=3)


def run(sampler: Callable[..., Any], schedule: Any, shape: tuple[int, ...]) -> Any:
    """The states of a sampler whose denoiser costs nothing."""
    import numpy as np

    x_T, eps = np.random.default_rng(0).standard_normal((2, *shape), dtype=np.float32)
    return sampler(lambda xt, t: eps, schedule, x_T, rng=np.random.default_rng(0))


def own_seconds(
    sampler: Callable[..., Any], schedule: Any, shape: tuple[int, ...], runs: int = 5
) -> float:
    """CPU seconds of a whole run without a network."""
    from minidiff.diffusion.samplers import final

    return least(lambda: final(run(sampler, schedule, shape)), runs)


def peak_arrays(sampler: Callable[..., Any], schedule: Any, shape: tuple[int, ...]) -> float:
    """The most arrays of this shape that are alive within a step, the caller's state included."""
    size = 4
    for n in shape:
        size *= n
    for _ in run(sampler, schedule, shape):  # what is made once only is made now
        pass
    states = run(sampler, schedule, shape)
    tracemalloc.start()
    try:
        peaks = []
        for _state in states:  # holds the last state while the next is made
            peaks.append(tracemalloc.get_traced_memory()[1] / size)
            tracemalloc.reset_peak()
    finally:
        tracemalloc.stop()
    return max(peaks)


if __name__ == "__main__":
    sys.exit(main())
