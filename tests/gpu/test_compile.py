"""Every CUDA source compiles for the GPUs that are supported. NVRTC needs no GPU and no driver:

    pip install 'minidiff[cuda-check]'
"""

import functools
import struct

import pytest

from minidiff.backend.kernels.cupy import launch

nvrtc = pytest.importorskip("cupy", reason="CuPy is not installed").cuda.nvrtc

SOURCES = sorted(path.stem for path in launch.HERE.glob("*.cu"))
ARCHITECTURES = ["sm_80", "sm_90"]
VARIANTS = [("float32",), ("float64",), ("float32", "TF32")]

# of a multiprocessor: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"
THREADS, REGISTERS = 256, 64 * 1024
SHARED = {"sm_80": 164 * 1024, "sm_90": 228 * 1024}
REGCOUNT, FRAME_SIZE, SIZED = 0x2F, 0x11, 4
"""Attributes of a kernel in a file of machine code, and the form of those of several bytes."""


@functools.cache
def compiled(text, architecture, variant):
    """The machine code of a source, or the compiler's complaint as an AssertionError."""
    try:
        program = nvrtc.createProgram(text, "source.cu", (), ())
    except Exception as error:  # CuPy without the library, which comes in a package of its own
        pytest.skip(f"NVRTC cannot be loaded: {error}")
    try:
        # as CuPy does: it has float32 numbers below 1.2e-38 flushed to zero
        options = [f"-arch={architecture}", *launch.options(*variant), "-ftz=true"]
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError:
        raise AssertionError(nvrtc.getProgramLog(program)) from None
    return nvrtc.getCUBIN(program)


def resources(cubin):
    """Kernel -> (registers of a thread, bytes of its stack, bytes of shared memory of a block).

    Read from the ELF file: the attributes REGCOUNT and FRAME_SIZE in its section .nv.info, which
    name a kernel by its symbol, and the length of the section of shared memory.
    """

    def text(table, at):
        start = table[4] + at
        return cubin[start : cubin.index(b"\0", start)].decode()

    start, width = struct.unpack_from("<Q", cubin, 0x28)[0], 0x40
    count, names = struct.unpack_from("<HH", cubin, 0x3C)
    sections = [struct.unpack_from("<IIQQQQIIQQ", cubin, start + i * width) for i in range(count)]
    named = {text(sections[names], s[0]): s for s in sections}
    symbols, strings = named[".symtab"], named[".strtab"]
    found = {REGCOUNT: {}, FRAME_SIZE: {}}
    at, end = named[".nv.info"][4], sum(named[".nv.info"][4:6])
    while at < end:
        form, attribute, value = struct.unpack_from("<BBH", cubin, at)
        if attribute in found:
            symbol, number = struct.unpack_from("<II", cubin, at + 4)
            name = text(strings, struct.unpack_from("<I", cubin, symbols[4] + 24 * symbol)[0])
            found[attribute][name] = number
        at += 4 + (value if form == SIZED else 0)
    shared = {name: named.get(f".nv.shared.{name}", [0] * 6)[5] for name in found[REGCOUNT]}
    return {
        name: (registers, found[FRAME_SIZE][name], shared[name])
        for name, registers in found[REGCOUNT].items()
    }


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", SOURCES)
def test_source_compiles(name, architecture, variant):
    """And a thread's numbers stay in registers: a stack would lie in memory."""
    text = launch.source(name)
    if "TF32" in variant and "TF32" not in text:
        pytest.skip("TF32 makes no difference to this source")
    found = resources(compiled(text, architecture, variant))
    assert found
    assert {kernel: stack for kernel, (_, stack, _) in found.items() if stack} == {}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_planted_error_is_reported(architecture):
    text = launch.source("elementwise").replace("dx[at] =", "dy[at] =")
    with pytest.raises(AssertionError, match='"dy" is undefined'):
        compiled(text, architecture, VARIANTS[0])


def test_there_are_sources():
    assert {"conv", "elementwise"} <= set(SOURCES)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "float32" in v], ids="-".join)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_two_blocks_of_the_convolution_fit_a_multiprocessor(architecture, variant):
    """One multiplies while the other waits for memory. A thread gets registers by eights."""
    found = resources(compiled(launch.source("conv"), architecture, variant))
    assert len(found) == 10
    for kernel, (registers, _, shared) in found.items():
        assert 2 * THREADS * -(-registers // 8) * 8 <= REGISTERS, kernel
        assert 0 < shared <= 48 * 1024, kernel
        assert 2 * (shared + 1024) <= SHARED[architecture], kernel  # 1 KB is the system's


def test_a_stack_is_seen():
    text = launch.source("conv").replace("(THREADS, BLOCKS)", "(THREADS, 4)")
    found = resources(compiled(text, "sm_90", ("float32",)))
    assert found["convolve_128x128"][0] <= 64 and found["convolve_128x128"][1] > 0
