"""Every known mistake is seen by a test: the collection, mutant by mutant."""

import re
import subprocess
import sys

import pytest
from numpy.testing import assert_allclose

from minidiff.diffusion import process, schedules
from tests.diffusion.test_exact import POINT, TRIO, UNIT, generated, package, reference
from tests.mutants.checks import cases, failing, killer
from tests.mutants.collection import BY_ID, MUTANTS
from tests.mutants.errata import ERRATA, WITHOUT_MUTANT
from tests.mutants.mutant import Edit, Mutant

SAMPLERS = [mutant for mutant in MUTANTS if mutant.generates]


@pytest.mark.parametrize("id", BY_ID)
def test_a_test_fails_with_it_that_passes_without(id, record_property):
    dead = False
    try:
        dead = killer(id) is not None
    finally:
        record_property("mutant", (id, dead))
    assert dead, f"no assertion of {BY_ID[id].killed_by} sees that the code {BY_ID[id].name}"


def test_all_are_killed():
    assert [id for id in BY_ID if killer(id) is None] == []


@pytest.mark.parametrize("id", BY_ID)
def test_each_is_told_in_full(id):
    mutant = BY_ID[id]
    assert re.fullmatch(r"[a-z0-9.]+(-[a-z0-9.]+)+", id)
    assert mutant.name[0].islower()
    assert not mutant.name.endswith(".")
    assert mutant.origin
    assert mutant.misconception.endswith(".")
    assert all(edit.old != edit.new for edit in mutant.edits)
    assert mutant.function.__doc__ == mutant.misconception
    assert mutant.edits[0].where in mutant.diff


def test_no_two_are_the_same():
    assert len(BY_ID) == len(MUTANTS)
    assert len({mutant.edits for mutant in MUTANTS}) == len(MUTANTS)


def test_every_erratum_is_a_mutant_or_says_why_not():
    assert list(ERRATA) == list(range(1, 45))
    covered = {int(n) for m in MUTANTS for n in re.findall(r"\bE(\d+)\b", m.origin)}
    assert covered | set(WITHOUT_MUTANT) == set(ERRATA)
    assert not covered & set(WITHOUT_MUTANT)


# --- what mutants of samplers generate ---


@pytest.mark.parametrize("mutant", SAMPLERS, ids=lambda mutant: mutant.id)
def test_what_a_sampler_with_the_mistake_generates(mutant):
    """Known variances; and on one of three data sets at least it is grossly wrong.

    N(0, 1) shows some mistakes in the fourth digit only, and the point lets others pass.
    """
    known = mutant.generates
    with mutant.applied():
        got = {data: generated(package(known.sampler, **known.options), data) for data in TRIO}
    assert_allclose(got[UNIT][1], known.unit, rtol=2e-2 if known.unit < 0.1 else 1e-4)
    assert_allclose(got[POINT][1], known.point, rtol=0.06, atol=1e-13)

    def grossly_wrong(data):
        (mean, variance), (right_mean, right) = (
            got[data], reference(known.sampler, data, **known.options)
        )  # fmt: skip
        # The point's variance is 1e-12 in any right sampler, 1e-4 with one stray noise.
        return abs(mean - right_mean) > 1e-3 or abs(variance - right) > max(1e-3 * right, 1e-6)

    assert any(map(grossly_wrong, TRIO))


# --- the machinery ---

EDIT = BY_ID["beta-for-posterior"].edits[0]


def mutant(edit=EDIT, killed_by=("diffusion/test_process.py::test_the_last_step_is_exact",)):
    return Mutant("a-b", "does it", "here", "It is so.", (edit,), killed_by)


def test_a_mutant_is_in_the_package_while_it_is_applied_and_nowhere_after():
    schedule = schedules.linear()
    bound_before = process.posterior
    right = process.posterior(schedule, 4, 5)
    code = process.posterior.__code__
    with BY_ID["beta-for-posterior"].applied():
        assert bound_before(schedule, 4, 5)[:2] == right[:2]
        assert_allclose(bound_before(schedule, 4, 5)[2], schedule.beta[5], rtol=1e-9)
    assert process.posterior.__code__ is code
    assert process.posterior(schedule, 4, 5) == right
    with pytest.raises(RuntimeError), BY_ID["beta-for-posterior"].applied():
        raise RuntimeError
    assert process.posterior(schedule, 4, 5) == right


def test_a_mutant_as_a_function_leaves_the_package_alone():
    schedule = schedules.linear()
    wrong = BY_ID["beta-for-posterior"].function
    assert_allclose(wrong(schedule, 4, 5)[2], schedule.beta[5], rtol=1e-9)
    assert process.posterior(schedule, 4, 5)[2] < schedule.beta[5]


def test_defaults_are_part_of_a_mutant():
    with BY_ID["linear-to-0.2"].applied():
        assert schedules.SCHEDULES["linear"]().beta[-1] == pytest.approx(0.2)
    assert schedules.linear().beta[-1] == 0.02


def test_an_edit_that_changes_nothing_survives():
    same = Edit(EDIT.where, EDIT.old, EDIT.old + "  # the same")
    assert list(failing(mutant(same))) == []


def test_a_crash_is_not_a_kill():
    assert list(failing(mutant(Edit(EDIT.where, EDIT.old, "1 / 0,")))) == []


def test_text_that_is_not_there_is_an_error():
    with pytest.raises(LookupError, match="'no such line' 0 times"):
        mutant(Edit(EDIT.where, "no such line", "")).function()


def test_cases_are_those_of_pytest():
    every = cases("diffusion/test_ddim.py::test_published_runs")
    assert len(every) == 3
    assert [name for name, _ in cases("diffusion/test_ddim.py::test_published_runs['v']")] == [
        every[1][0]
    ]
    with pytest.raises(LookupError, match="no case"):
        cases("diffusion/test_ddim.py::test_published_runs[nothing]")


def test_the_collection_needs_no_pytest():
    code = (
        "import sys; from tests.mutants import collection as c; assert c.MUTANTS[0].diff; "
        "assert not {'pytest', 'hypothesis'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
