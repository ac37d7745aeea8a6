"""Every CUDA source compiles for the GPUs that are supported. NVRTC needs no GPU and no driver:

    pip install 'minidiff[cuda-check]'
"""

import pytest

from minidiff.backend.kernels.cupy import launch

nvrtc = pytest.importorskip("cupy", reason="CuPy is not installed").cuda.nvrtc

SOURCES = sorted(path.stem for path in launch.HERE.glob("*.cu"))
ARCHITECTURES = ["sm_80", "sm_90"]
VARIANTS = [("float32",), ("float64",), ("float32", "TF32")]


def compiled(text, architecture, variant):
    """The machine code of a source, or the compiler's complaint as an AssertionError."""
    try:
        program = nvrtc.createProgram(text, "source.cu", (), ())
    except Exception as error:  # CuPy without the library, which comes in a package of its own
        pytest.skip(f"NVRTC cannot be loaded: {error}")
    try:
        options = [f"-arch={architecture}", *launch.options(*variant)]
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError:
        raise AssertionError(nvrtc.getProgramLog(program)) from None
    return nvrtc.getCUBIN(program)


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", SOURCES)
def test_source_compiles(name, architecture, variant):
    text = launch.source(name)
    if "TF32" in variant and "TF32" not in text:
        pytest.skip("TF32 makes no difference to this source")
    assert len(compiled(text, architecture, variant)) > 1000


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_planted_error_is_reported(architecture):
    text = launch.source("elementwise").replace("dx[at] =", "dy[at] =")
    with pytest.raises(AssertionError, match='"dy" is undefined'):
        compiled(text, architecture, VARIANTS[0])


def test_there_are_sources():
    assert {"conv", "elementwise"} <= set(SOURCES)
