"""The cores are shared by those who compute at this moment."""

from threading import Barrier, Thread

import pytest

from stentor.engine.threads import ThreadBudget


def test_a_lone_model_has_all_cores_and_two_share_them() -> None:
    budget = ThreadBudget(4)
    with budget.busy():
        assert budget.share() == 4
        with budget.busy():
            assert budget.share() == 2
            with budget.busy():
                assert budget.share() == 1, "3 of 4: nobody gets more than is there"
        assert budget.share() == 4


def test_there_is_always_one_thread_to_work_with() -> None:
    assert ThreadBudget(0).total == ThreadBudget(-3).total == 1
    budget = ThreadBudget(1)
    assert budget.share() == 1, "nobody is busy yet"
    with budget.busy(), budget.busy(), budget.busy():
        assert budget.share() == 1


def test_one_that_fails_is_busy_no_more() -> None:
    budget = ThreadBudget(2)
    with pytest.raises(KeyError), budget.busy(), budget.busy():
        raise KeyError
    with budget.busy():
        assert budget.share() == 2


def test_many_threads_come_and_go() -> None:
    budget, start = ThreadBudget(8), Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(500):
            with budget.busy():
                assert 1 <= budget.share() <= 8

    threads = [Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with budget.busy():
        assert budget.share() == 8
