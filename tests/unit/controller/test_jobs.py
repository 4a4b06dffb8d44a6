"""What is known of the jobs is the newest there is, whoever brings it and in whatever order."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodput_operator.controller import jobs as module
from goodput_operator.controller.jobs import JobStore, job_key
from goodput_operator.observe.agents import JobKey

A, B = ("ml", "a"), ("ml", "b")


def job(version: int, key: JobKey = A, uid: str = "u1") -> dict[str, Any]:
    namespace, name = key
    return {
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": uid,
            "resourceVersion": str(version),
        },
        "spec": {"workers": version},
    }


class Told(JobStore):
    """A store that remembers whom it told what: (key, old version, new version)."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[JobKey, int | None, int | None]] = []
        self.on_change(lambda key, old, new: self.told.append((key, version(old), version(new))))

    def version(self, key: JobKey = A) -> int | None:
        return version(self.get(key))


def version(one: dict[str, Any] | None) -> int | None:
    return one["spec"]["workers"] if one else None


def test_an_older_event_changes_nothing_and_wakes_nobody() -> None:
    store = Told()
    store.observe(job(100))
    store.observe(job(99))
    assert store.version() == 100
    assert store.told == [(A, None, 100)]


def test_versions_are_compared_as_numbers() -> None:
    store = Told()
    store.observe(job(99))
    store.observe(job(100))
    assert store.version() == 100


def test_a_follower_hears_of_every_change_our_own_included() -> None:
    store, heard = JobStore(), list[tuple[JobKey, int | None]]()
    store.on_every_change(lambda key, new: heard.append((key, version(new))))
    store.observe(job(1))
    store.put(job(2))
    store.put(job(1))
    store.relist(store.versions(), [job(3)])
    store.observe(job(4), deleted=True)
    assert heard[:2] == [(A, 1), (A, 2)]
    assert heard[-2:] == [(A, 3), (A, None)]


def test_what_we_wrote_ourselves_is_known_at_once_and_is_no_news() -> None:
    store = Told()
    store.observe(job(1))
    store.put(job(2))
    store.observe(job(2))  # the watch brings our own write
    assert store.version() == 2
    assert store.told == [(A, None, 1)]


def test_our_own_write_is_no_news_when_the_watch_brings_it_before_its_answer() -> None:
    store = Told()
    store.observe(job(1))
    with store.writing(A):
        store.observe(job(2))
        store.put(job(2))
    assert store.version() == 2
    assert store.told == [(A, None, 1)]


def test_what_others_change_beside_our_write_is_told_when_it_is_over() -> None:
    store = Told()
    store.observe(job(1))
    with store.writing(A):
        store.observe(job(2))  # ours
        store.observe(job(3))
        store.observe(job(9, B))
        assert store.told == [(A, None, 1), (B, None, 9)]
        store.put(job(2))
    assert store.version() == 3
    assert store.told == [(A, None, 1), (B, None, 9), (A, 1, 3)]


def test_a_write_that_fails_hides_nothing() -> None:
    store = Told()
    store.observe(job(1))
    with contextlib.suppress(RuntimeError), store.writing(A):
        store.observe(job(2))
        raise RuntimeError
    store.observe(job(3))
    assert store.told == [(A, None, 1), (A, 1, 2), (A, 2, 3)]


def test_a_job_that_is_deleted_while_we_write_it_is_told_of() -> None:
    store = Told()
    store.observe(job(1))
    with store.writing(A):
        store.observe(job(3), deleted=True)
        store.put(job(2))
    assert store.version() is None
    assert store.told == [(A, None, 1), (A, 1, None)]


def test_a_late_answer_does_not_bring_a_deleted_job_back() -> None:
    store = Told()
    store.observe(job(1))
    store.observe(job(3), deleted=True)
    store.put(job(2))
    assert store.version() is None
    assert store.told[-1] == (A, 1, None)


def test_a_job_made_again_under_the_same_name_is_another_job() -> None:
    store = Told()
    store.observe(job(1, uid="u1"))
    store.observe(job(5, uid="u2"))
    store.observe(job(4, uid="u1"), deleted=True)  # of the former, late
    assert store.version() == 5
    store.observe(job(7, uid="u3"))
    assert store.version() == 7


def test_the_deletion_of_an_unknown_job_is_no_news() -> None:
    store = Told()
    store.observe(job(3), deleted=True)
    assert store.told == []


def test_only_so_many_deletions_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TOMBSTONES", 2)
    store = Told()
    for number in range(5):
        store.observe(job(number, ("ml", str(number))), deleted=True)
    assert len(store._tombstones) == 2


def test_nobody_reads_managed_fields_so_they_are_not_kept() -> None:
    store = Told()
    raw = job(1)
    raw["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    store.observe(raw)
    known = store.get(A)
    assert known is not None
    assert "managedFields" not in known["metadata"]
    assert "managedFields" in raw["metadata"], "what was given is left as it is"


def test_a_full_list_brings_what_the_watch_missed() -> None:
    store = Told()
    store.observe(job(1, A))
    store.observe(job(2, B))
    missed = store.relist(store.versions(), [job(5, A), job(6, ("ml", "c"))])
    assert missed == 3
    assert store.keys() == (A, ("ml", "c"))
    assert store.told[2:] == [(A, 1, 5), (B, 2, None), (("ml", "c"), None, 6)]


def test_a_full_list_that_agrees_is_no_news() -> None:
    store = Told()
    store.observe(job(1))
    assert store.relist(store.versions(), [job(1)]) == 0
    assert len(store.told) == 1


def test_what_changes_while_the_list_is_under_way_is_newer_than_the_list() -> None:
    store = Told()
    store.observe(job(1, A))
    before = store.versions()
    store.put(job(9, A))
    store.observe(job(8, B))
    assert store.relist(before, []) == 0
    assert store.keys() == (A, B)


def test_after_a_restore_from_a_backup_the_list_is_believed() -> None:
    store = Told()
    store.observe(job(100))
    store.relist(store.versions(), [job(40)])
    assert store.version() == 40
    store.observe(job(41))
    assert store.version() == 41


@given(
    events=st.permutations([1, 2, 3, 4, 5]),
    own=st.sets(st.sampled_from([1, 2, 3, 4])),
)
def test_in_whatever_order_news_arrive_the_last_state_is_the_newest(
    events: list[int], own: set[int]
) -> None:
    store = JobStore()
    for number in events:
        if number in own:
            store.put(job(number))
        else:
            store.observe(job(number), deleted=number == 5)
    assert store.get(A) is None, "the deletion was the last"
    assert job_key(job(1)) == A
