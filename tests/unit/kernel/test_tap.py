"""Tests that a guest tells of: leaves are counted, whatever nests them; announced and not there is missing."""

from __future__ import annotations

import random

import pytest

from orchestrator.kernel.tap import TestOutcome, TestReader, summed_up

KUNIT = b"""KTAP version 1
1..2
    KTAP version 1
    # Subtest: list
    # module: list_test
    1..3
    ok 1 init
    # add: EXPECTATION FAILED at lib/list-test.c:1
    not ok 2 add
    ok 3 del # SKIP no memory
# list: pass:1 fail:1 skip:1 total:3
not ok 1 list
    KTAP version 1
    1..1
        KTAP version 1
        # Subtest: params
        ok 1 a
        ok 2 b
    ok 1 params
ok 2 hash
"""


# What Linux 6.14's KUnit writes on a console of which each line is stamped: parameters without a plan, below a test
# that has one; a skip with its reason; other words of the kernel's, an oops that a test provokes among them.
KUNIT_CONSOLE = b"""[    3.908100] KTAP version 1
[    3.908101] 1..4
[    3.932809]     KTAP version 1
[    3.933040]     # Subtest: kunit-log-test
[    3.933367]     # module: kunit_test
[    3.933368]     1..2
[    3.934030] put this in log.
[    3.934033] this too.
[    3.934982]     ok 1 kunit_log_test
[    3.935405]     # kunit_log_newline_test: Add newline
[    3.936164]     ok 2 kunit_log_newline_test # SKIP only useful when debugfs is enabled
[    3.936166] # kunit-log-test: pass:1 fail:0 skip:1 total:2
[    3.936752] # Totals: pass:1 fail:0 skip:1 total:2
[    3.937197] ok 1 kunit-log-test
[    3.950395]     KTAP version 1
[    3.950617]     # Subtest: kunit_fault
[    3.950889]     # module: kunit_test
[    3.950890]     1..1
[    3.951773] Oops: general protection fault, probably for non-canonical address: 0000 [#1] PREEMPT SMP KASAN PTI
[    3.967722] Modules linked in:
[    3.967989] ---[ end trace 0000000000000000 ]---
[    3.974764]     # kunit_test_fault_null_dereference: try faulted: last line seen lib/kunit/kunit-test.c:95
[    3.976367]     ok 1 kunit_test_fault_null_dereference
[    3.976370] ok 2 kunit_fault
[    4.113628][    T1]     KTAP version 1
[    4.113867][    T1]     # Subtest: drm_sched_basic_tests
[    4.114281][    T1]     # module: drm_sched_tests
[    4.114283][    T1]     1..3
[    4.234223][  T104] input: ImExPS/2 Generic Explorer Mouse as /devices/platform/i8042/serio1/input/input3
[    4.617191][    T1]     ok 1 drm_sched_basic_submit
[    4.617197][    T1]         KTAP version 1
[    4.617765][    T1]         # Subtest: drm_sched_basic_test
[    4.719657][    T1]         ok 1 A queue of jobs in a single entity
[    4.821976][    T1]         ok 2 A chain of dependent jobs across multiple entities
[    4.924015][    T1]         not ok 3 Multiple independent job queues
[    5.026907][    T1]     # drm_sched_basic_test: pass:2 fail:1 skip:0 total:3
[    5.027322][    T1]     not ok 2 drm_sched_basic_test
[    5.080020][    T1]     ok 3 drm_sched_basic_entity_cleanup
[    5.080317][    T1] # drm_sched_basic_tests: pass:2 fail:1 skip:0 total:3
[    5.080657][    T1] # Totals: pass:4 fail:1 skip:0 total:5
[    5.081103][    T1] not ok 3 drm_sched_basic_tests
[    5.081679][    T1]     # Subtest: without_a_version
[    5.081680][    T1]     1..2
[    5.082259][    T1]     ok 1 - as_linux_5
"""


def read(*blocks: bytes, stamped: bool = False) -> TestReader:
    reader = TestReader(stamped=stamped)
    for block in blocks:
        reader.feed(block)
    reader.finish()
    return reader


def outcomes(reader: TestReader) -> dict[str, str]:
    return {test.name: str(test.outcome) for test in reader.tests}


@pytest.mark.parametrize("stamped", [True, False])
def test_leaves_are_counted(*, stamped: bool) -> None:
    """A suite is not a test; its tests bear its name."""
    lines = KUNIT.splitlines(keepends=True)
    text = b"".join(b"[    1.234567] " + line for line in lines) if stamped else KUNIT
    reader = read(text, stamped=stamped)
    assert outcomes(reader) == {
        "list/init": "passed",
        "list/add": "failed",
        "list/del": "skipped",
        "hash/params/a": "passed",
        "hash/params/b": "passed",
    }
    assert reader.failed
    assert summed_up(reader) == "tests: 3 passed, 1 failed, 1 skipped: list/add"


def test_kunit_on_a_console() -> None:
    """Counted as its own totals count; one that does not come to its end has tests missing."""
    reader = read(b"[    1.000000] 1..9\n[    1.000001] ok 1 no test yet\n", KUNIT_CONSOLE, stamped=True)
    drm = "drm_sched_basic_tests/drm_sched_basic_test"
    assert outcomes(reader) == {
        "kunit-log-test/kunit_log_test": "passed",
        "kunit-log-test/kunit_log_newline_test": "skipped",
        "kunit_fault/kunit_test_fault_null_dereference": "passed",
        "drm_sched_basic_tests/drm_sched_basic_submit": "passed",
        f"{drm}/A queue of jobs in a single entity": "passed",
        f"{drm}/A chain of dependent jobs across multiple entities": "passed",
        f"{drm}/Multiple independent job queues": "failed",
        "drm_sched_basic_tests/drm_sched_basic_entity_cleanup": "passed",
        "as_linux_5": "passed",
    }
    assert reader.missing == 2  # of the last suite one test, and the suite itself
    assert summed_up(reader).startswith("tests: 7 passed, 1 failed, 1 skipped, 2 missing: drm_sched_basic_tests/")


def test_in_whatever_pieces_it_comes() -> None:
    """A stream has no lines."""
    choice, at, blocks = random.Random(1), 0, []
    while at < len(KUNIT):
        size = choice.randrange(1, 9)
        blocks.append(KUNIT[at : at + size])
        at += size
    assert outcomes(read(*blocks)) == outcomes(read(KUNIT))


@pytest.mark.parametrize(
    ("text", "passed", "failed", "missing"),
    [
        (b"1..2\nok 1 - a\nok 2 - b\n", 2, 0, 0),
        (b"ok 1 - a\nnot ok 2\n1..2\n", 1, 1, 0),
        (b"1..3\nok 1 - a", 1, 0, 2),  # it stopped in the middle
        (b"TAP version 13\n1..1\nok 1 a\nTAP version 13\n1..1\nnot ok 1 a\n", 1, 1, 0),
        (b"1..0 # SKIP nothing to do\n", 0, 0, 0),
        (b"not ok 1 - known # TODO later\nnot ok 2 x # XFAIL\nok 3 # SKIP\n", 0, 0, 0),
        (b"    ok 1 a\n    ok 2 b\nnot ok 1 suite\n", 2, 1, 0),  # failed for itself, as in its exit
        (b"okay\nnot okay\nbook 1\n ok \xff\xfe\n", 1, 0, 0),
    ],
)
def test_kinds_of_tap(text: bytes, passed: int, failed: int, missing: int) -> None:
    """Plans before or behind, none, several documents, known failures."""
    reader = read(text)
    assert (reader.counts[TestOutcome.PASSED], reader.counts[TestOutcome.FAILED], reader.missing) == (
        passed,
        failed,
        missing,
    )
    assert reader.failed is bool(failed or missing)


def test_giving_up_is_failure() -> None:
    """Whatever passed before."""
    reader = read(b"ok 1\nBail out! no network\n")
    assert reader.failed
    assert summed_up(reader).endswith("; gave up: no network")


def test_no_tests_are_no_success() -> None:
    """Nothing is summed up where nothing was said, nor on a console whose `ok` begins no tests."""
    assert not read(b"hello\n").seen
    assert not read(b"[    1.000000] ok\n", stamped=True).seen
    assert summed_up(read(b"hello\n")) == ""


def test_numbers() -> None:
    """Lines of their own, the last of a name; what is no number is nothing."""
    text = b"metric boot_ms 12.5\nmetric x -3e2\nmetric boot_ms 13\nmetric y nan\nmetric z\n metric w 1\nmetric 1 2\n"
    assert read(text).metrics == {"boot_ms": 13.0, "x": -300.0}


def test_what_a_guest_says_is_bounded() -> None:
    """Any number of tests and names costs a bounded amount; all are counted."""
    reader = TestReader()
    for number in range(12_000):
        reader.feed(b"ok %d x\nmetric m%d 1\n" % (number, number))
    reader.feed(b" " * 40 + b"ok 1 deep\n" + b"1..999999999\n")
    reader.finish()
    assert reader.counts[TestOutcome.PASSED] == 12_000
    assert len(reader.tests) == len(reader.metrics) == 10_000
