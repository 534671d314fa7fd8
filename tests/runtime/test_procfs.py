"""/proc as the kernel writes it, and processes that are gone."""

from __future__ import annotations

import os

from greenagent.runtime import procfs


def test_a_name_with_brackets_and_blanks_does_not_confuse() -> None:
    raw = b"12 (a) b (x 1 R) S 7 12 12 0 -1 4194304 1 2 0 0 10 20 30 40 20 0 3 0 555 4096 2 184 0 0 0\n"
    found = procfs.parse_stat(12, raw)
    assert found is not None
    assert (found.command, found.parent) == ("a) b (x 1 R", 7)
    assert (found.cpu_ticks, found.threads, found.start_ticks) == (100, 3, 555)
    assert (found.vms, found.rss) == (4096, 2 * procfs.PAGE)
    assert not found.is_dead


def test_processes_that_do_not_exist_are_nothing() -> None:
    gone = 4_194_305  # over the largest pid there can be
    assert procfs.read_process(gone) is None
    assert not procfs.is_same(gone, 0)
    assert procfs.children(gone) == []
    assert procfs.pipes_of(gone) == set()
    assert procfs.read_io(gone) == (0, 0)
    assert procfs.read_swap(gone) == procfs.read_exact_rss(gone) == 0
    assert procfs.count_descriptors(gone) == 0


def test_what_a_process_uses_is_what_the_kernel_counts() -> None:
    agent = os.getpid()
    with open("/proc/self/io") as file:
        written = int(file.read().partition("\nwrite_bytes: ")[2].split()[0])
    assert procfs.read_io(agent)[1] >= written
    with open("/proc/self/status") as file:
        assert f"VmSwap:\t{procfs.read_swap(agent) // 1024:8} kB" in file.read()
    exact = procfs.read_exact_rss(agent)
    assert abs(exact - procfs.read_process(agent).rss) < exact / 2


def test_one_pass_finds_this_process_and_its_parent_and_gives_way_between() -> None:
    turns: list[int] = []
    snapshot = procfs.Snapshot(lambda: turns.append(1))
    own = snapshot.process(os.getpid())
    assert own is not None
    assert own.start_ticks == procfs.read_process(os.getpid()).start_ticks
    assert os.getpid() in snapshot.children(os.getppid())
    assert len(turns) >= 2
    assert snapshot.process(4_194_305) is None
    assert snapshot.children(4_194_305) == []
