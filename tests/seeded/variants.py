"""The bugs that our tests must find: what they do, how they are made, which tests find them.

Each is one that such an operator has had, or could have at any time: a line that was forgotten,
a condition the wrong way round, an order of two acts that were swapped. They are made from
outside, by an exact replacement of text (see `plugin`); the product has no switch for them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

RECONCILE = "operator/goodput_operator/reconcile.py"
GATEWAY = "operator/goodput_operator/effects/gateway.py"
CACHES = "operator/goodput_operator/effects/caches.py"
LEASE = "operator/goodput_operator/effects/lease.py"
QUEUE = "operator/goodput_operator/controller/queue.py"
JOBS = "operator/goodput_operator/controller/jobs.py"
PARTS = "operator/goodput_operator/controller/parts.py"
AUTH = "operator/goodput_operator/reports/auth.py"
HANDLER = "operator/goodput_operator/reports/handler.py"
STORE = "operator/goodput_operator/reports/store.py"
SNAPSHOT = "operator/goodput_operator/observe/snapshot.py"
AGENTS = "operator/goodput_operator/observe/agents.py"
EXAMINE = "operator/goodput_operator/diagnose/examine.py"
DECIDE = "operator/goodput_operator/plan/decide.py"
RULES = "operator/goodput_operator/plan/rules.py"
ATTEMPT = "operator/goodput_operator/plan/attempt.py"
FORMING = "operator/goodput_operator/plan/forming.py"
PROJECT = "operator/goodput_operator/plan/project.py"
SPENDING = "operator/goodput_operator/plan/spending.py"
SIZING = "operator/goodput_operator/plan/sizing.py"
RESIZE = "operator/goodput_operator/plan/resize.py"
VIEW = "operator/goodput_operator/plan/view.py"
SAVING = "operator/goodput_operator/plan/saving.py"
NOTICES = "operator/goodput_operator/plan/notices.py"
ANSWERS = "operator/goodput_operator/plan/answers.py"
ACCOUNTING = "operator/goodput_operator/ledger/accounting.py"
BOOK = "operator/goodput_operator/gang/book.py"
POD = "operator/goodput_operator/render/pod.py"
CORE = "operator/goodput/agent/core.py"
PRUNE = "operator/goodput/checkpoint/prune.py"
LINEAGE = "operator/goodput/checkpoint/lineage.py"
LAYOUT = "operator/goodput/checkpoint/layout.py"
FILES = "operator/goodput/checkpoint/files.py"
SAVES = "operator/goodput/checkpoint/store.py"


@dataclass(frozen=True)
class Edit:
    """A replacement in one file of the product; `old` stands there exactly once."""

    path: str
    old: str
    new: str

    @property
    def module(self) -> str:
        """The module's name, as it is imported."""
        return self.path.removeprefix("operator/").removesuffix(".py").replace("/", ".")


@dataclass(frozen=True)
class Variant:
    """One bug.

    Attributes:
        what: what the product does wrong then.
        edits: how the bug is made.
        tests: the fewest that should find it; they pass without it.
    """

    name: str
    what: str
    edits: Sequence[Edit]
    tests: Sequence[str]


def altered(text: str, edits: Sequence[Edit]) -> str:
    """Return a module's text with the edits made.

    Raises:
        ValueError: the text has changed, and the variant must be written anew.
    """
    for edit in edits:
        times = text.count(edit.old)
        if times != 1:
            raise ValueError(f"{edit.path} has this text {times} times, not once:\n{edit.old}")
        text = text.replace(edit.old, edit.new)
    return text


def _bug(name: str, what: str, path: str, old: str, new: str, *tests: str) -> Variant:
    return Variant(name, what, (Edit(path, old, new),), tests)


_PERSIST = """        if plan.write:
            await self._persist(key, job, plan)
"""
_ACT = "        await self._act(key, job, spec, plan)\n"

_ALL = (
    # --- writing and acting -------------------------------------------------------------
    _bug(
        "no-resource-version",
        "the status is written over whatever somebody else has written since",
        GATEWAY,
        """        metadata = job["metadata"]
        path = JOBS.path(metadata["namespace"], metadata["name"], "status")
""",
        """        metadata = {k: v for k, v in job["metadata"].items() if k != "resourceVersion"}
        job = {**job, "metadata": metadata}
        path = JOBS.path(metadata["namespace"], metadata["name"], "status")
""",
        "tests/unit/effects/test_gateway.py"
        "::test_a_status_is_written_only_onto_the_state_it_was_made_for",
        "tests/simulation/test_visit.py"
        "::test_a_conflict_stops_the_pass_and_the_next_one_sees_what_is_new",
    ),
    _bug(
        "delete-by-name",
        "a deletion strikes whatever pod bears the name now",
        GATEWAY,
        'body = {"preconditions": {"uid": uid}, **(options or {})}',
        "body = {**(options or {})}",
        "tests/unit/effects/test_gateway.py"
        "::test_deletion_strikes_the_pod_that_was_meant_and_no_namesake",
    ),
    _bug(
        "act-before-persist",
        "pods are created and deleted before the intent is in the status",
        RECONCILE,
        _PERSIST + _ACT,
        _ACT + _PERSIST,
        "tests/simulation/test_visit.py"
        "::test_a_conflict_stops_the_pass_and_the_next_one_sees_what_is_new",
    ),
    _bug(
        "conflict-shrugged-off",
        "after a conflict the pass goes on and acts on a plan that was never written",
        RECONCILE,
        """            self.jobs.put(await self.gateway.get_job(key))
            raise
""",
        """            self.jobs.put(await self.gateway.get_job(key))
            return
""",
        "tests/simulation/test_visit.py"
        "::test_a_conflict_stops_the_pass_and_the_next_one_sees_what_is_new",
    ),
    _bug(
        "random-pod-name",
        "a pod that is created again after a lost answer gets another name",
        POD,
        '            "name": names.pod_name(job.name, slot, incarnation),\n',
        '            "name": names.pod_name(job.name, slot, incarnation)\n'
        "            + f\"-{id(object()) % 997}{__import__('uuid').uuid4().hex[:4]}\",\n",
        "tests/unit/render/test_pod.py::test_the_same_worker_is_rendered_the_same_every_time",
        "tests/simulation/test_visit.py::test_a_pod_that_a_lost_answer_hid_is_ours_all_the_same",
    ),
    _bug(
        "foreign-pod-adopted",
        "a pod of our name that somebody else owns is taken for ours",
        RECONCILE,
        'if all(owner.get("uid") != owner_uid for owner in owners):',
        "if False:",
        "tests/simulation/test_refusals.py::test_a_foreign_pod_of_our_name_is_named_and_left_alone",
    ),
    _bug(
        "label-proves-ownership",
        "whatever pod carries the job's label is taken for the job's own",
        SNAPSHOT,
        "return view if owner_uid in owners else None",
        "return view",
        "tests/unit/observe/test_snapshot.py::test_a_pod_is_not_ours",
    ),
    _bug(
        "managed-by-ignored",
        "the jobs of another controller are worked on",
        RECONCILE,
        "return bool(managed_by == names.MANAGED_BY)",
        "return True",
        "tests/simulation/test_visit.py::test_the_job_of_another_controller_is_left_alone",
    ),
    _bug(
        "deleted-job-worked-on",
        "pods are made for a job that is being deleted",
        RECONCILE,
        """        return False  # the garbage collector's work now, also when we are down
""",
        """        pass
""",
        "tests/simulation/test_visit.py"
        "::test_a_job_that_is_being_deleted_is_left_to_the_garbage_collector",
    ),
    _bug(
        "edge-instead-of-level",
        "pods are created only in the pass that decides it, not while they are missing",
        DECIDE,
        "if worker.pod is None and worker.slot in view.room",
        "if worker.pod is None and worker.slot in view.room and decisions",
        "tests/simulation/test_visit.py::test_a_pod_that_a_lost_answer_hid_is_ours_all_the_same",
    ),
    _bug(
        "unsynced-cache",
        "decisions are made on caches that have not been filled, or not been heard of for long",
        RECONCILE,
        "return all(cache.synced and cache.fresh() for cache in caches)",
        "return True",
        "tests/simulation/test_visit.py::test_nothing_is_decided_on_a_view_that_is_too_old",
        "tests/simulation/test_views.py::test_nothing_is_decided_before_everything_was_listed_once",
    ),
    _bug(
        "cache-is-the-truth",
        "a pod that the cache does not have is lost, whatever the API server would say",
        RECONCILE,
        "            await self._look_for_missing(key, status, pods)\n",
        "            pass\n",
        "tests/simulation/test_faults.py"
        "::test_a_job_trains_again_whatever_happens_and_when"
        "[the_labels_are_taken_off-training-sdk]",
    ),
    _bug(
        "every-pass-writes",
        "the status is written in each pass, whether anything has changed or not",
        PROJECT,
        "    decided = _essence(before) != _essence(after)\n",
        "    decided = True\n",
        "tests/simulation/test_visit.py::test_a_pass_that_changes_nothing_writes_nothing",
    ),
    _bug(
        "pods-deleted-twice",
        "a pod that is being deleted is deleted again in the next pass",
        RECONCILE,
        "            self.workers.put(ending)  # so that the next pass does not delete it again\n",
        "            pass\n",
        "tests/simulation/test_views.py::test_a_pod_whose_end_is_not_seen_yet_is_deleted_once",
    ),
    # --- what is charged ----------------------------------------------------------------
    _bug(
        "incident-counted-twice",
        "a failure is counted when it is seen, and again when its attempt is closed",
        ATTEMPT,
        """                    "charged": charged,
                }
            )
        }
    )
    status = _remembered(view, status, reason)
""",
        """                    "charged": charged,
                }
            ),
            "recovery": view.status.recovery.model_copy(
                update={"total": view.status.recovery.total + 1}
            ),
        }
    )
    status = _remembered(view, status, reason)
""",
        "tests/unit/plan/test_recovery.py"
        "::test_a_failed_process_is_restarted_at_once_in_the_same_pods",
    ),
    _bug(
        "infrastructure-charged",
        "a lost node is paid from the user's budget",
        RULES,
        "            charged=cause.charged,\n",
        "            charged=True,\n",
        "tests/unit/plan/test_recovery.py::test_only_the_lost_pod_is_replaced",
    ),
    _bug(
        "peers-blamed",
        "the peers that failed of a lost worker are blamed, because they were heard first",
        RULES,
        "    cause = _truer_cause(view)\n    if cause is not None:\n",
        "    cause = _truer_cause(view)\n    if False and cause is not None:\n",
        "tests/unit/plan/test_recovery.py::test_a_lost_worker_explains_its_peers_failures",
    ),
    _bug(
        "budget-off-by-one",
        "the job fails one failure before its budget is used up",
        RULES,
        "len(recovery.restarts) > policy.max_restarts",
        "len(recovery.restarts) >= policy.max_restarts",
        "tests/unit/plan/test_recovery.py"
        "::test_the_budget_fails_the_job_exactly_when_it_is_exceeded",
    ),
    _bug(
        "budget-without-window",
        "failures of long ago count against the budget for ever",
        ATTEMPT,
        "[record for record in recovery.restarts if record.at > began]",
        "list(recovery.restarts)",
        "tests/unit/plan/test_recovery.py::test_what_failed_before_the_window_is_forgiven",
    ),
    _bug(
        "exit-93-requeued",
        "a process that asks not to be tried again is tried again",
        EXAMINE,
        "requeue=first.exit_code != EXIT_CODE_DO_NOT_REQUEUE,",
        "requeue=True,",
        "tests/unit/plan/test_recovery.py::test_exit_code_93_is_never_tried_again",
    ),
    _bug(
        "no-back-off",
        "a job that keeps failing is restarted at once, again and again",
        ATTEMPT,
        "    return int(max(wanted, SHORTEST_BACKOFF_SECONDS))\n",
        "    return 0 * int(wanted)\n",
        "tests/unit/plan/test_recovery.py"
        "::test_the_back_off_begins_with_the_second_failure_without_progress",
    ),
    _bug(
        "back-off-from-the-decision",
        "the back-off counts from when we noticed, not from the failure",
        ATTEMPT,
        "not_before=truncate(ended_at + timedelta(seconds=backoff_seconds(policy, without))),",
        "not_before=truncate(view.now + timedelta(seconds=backoff_seconds(policy, without))),",
        "tests/unit/plan/test_recovery.py"
        "::test_the_back_off_counts_from_the_failure_not_from_when_it_was_noticed",
    ),
    _bug(
        "back-off-postponed",
        "each pass during a back-off makes it begin anew",
        FORMING,
        """    if view.backing_off_until is not None:
        return Step(view.status, "BackOff", recheck_at=view.backing_off_until)
    members = chosen(ready, size, view.elastic.benched)
""",
        """    if view.backing_off_until is not None:
        later = view.now.replace(microsecond=0)
        later += timedelta(seconds=view.spec.recovery.backoff_seconds)
        recovery = view.status.recovery.model_copy(update={"not_before": later})
        status = view.status.model_copy(update={"recovery": recovery})
        return Step(status, "BackOff", recheck_at=later)
    members = chosen(ready, size)
""",
        "tests/unit/plan/test_recovery.py::test_no_pass_during_a_back_off_postpones_it",
    ),
    # --- whom and what to believe -------------------------------------------------------
    _bug(
        "older-attempt-believed",
        "what an agent says of an older attempt is taken as of the current one",
        SNAPSHOT,
        "return run if run is not None and run.attempt == attempt else None",
        "return run",
        "tests/unit/plan/test_gang.py"
        "::test_a_back_off_that_outlasts_the_start_timeout_keeps_the_survivors",
    ),
    _bug(
        "replay-accepted",
        "an older report of an agent takes the place of a newer one",
        STORE,
        "if _is_old_news(known.request, request) or self._was_not_ordered(pod, request):",
        "if self._was_not_ordered(pod, request):",
        "tests/unit/reports/test_store.py::test_old_news_changes_nothing",
    ),
    _bug(
        "another-slots-report",
        "a pod may speak for another slot",
        HANDLER,
        "if (request.slot, request.incarnation) != (pod.slot, pod.incarnation):",
        "if False:",
        "tests/unit/reports/test_handler.py::test_nobody_speaks_for_another_slot",
    ),
    _bug(
        "tokens-pod-not-checked",
        "the token of a deleted pod speaks for the pod that bears its name now",
        AUTH,
        "return pod if pod is not None and pod.uid == claims.pod_uid else None",
        "return pod",
        "tests/unit/reports/test_handler.py"
        "::test_without_asking_the_api_server_nobody_believes_a_token",
    ),
    _bug(
        "review-not-compared",
        "a token is believed that the API server says belongs to somebody else",
        AUTH,
        """    return (claims.namespace, claims.pod_name, claims.pod_uid) == (
        identity.namespace,
        identity.pod_name,
        identity.pod_uid,
    )
""",
        "    return True\n",
        "tests/unit/reports/test_handler.py"
        "::test_a_token_is_not_believed_that_the_api_server_says_is",
    ),
    _bug(
        "expired-token",
        "a token that was recognised once is good for ever",
        AUTH,
        "        if not claims.expires_at > now:\n            return None\n",
        "",
        "tests/unit/reports/test_handler.py::test_a_kept_review_ends_with_the_token",
    ),
    _bug(
        "claims-suffice",
        "a token is believed for what it says of itself; its signature is never reviewed",
        AUTH,
        """            self._check_claims(token, digest, peer, now)
            return None
""",
        """            self._check_claims(token, digest, peer, now)
            claims = read_claims(token)
            return self._living(claims, now) if claims else None
""",
        "tests/unit/reports/test_handler.py"
        "::test_a_forged_signature_is_found_out_once_and_then_remembered",
    ),
    _bug(
        "agents-clock-believed",
        "the time of day of a node is taken for ours",
        AGENTS,
        "return self.received_at - timedelta(milliseconds=age_ms)",
        "return datetime.fromtimestamp(at_ms / 1000, self.received_at.tzinfo)",
        "tests/unit/reports/test_store.py::test_the_time_of_an_event_on_the_agents_clock",
    ),
    _bug(
        "standby-believed-its-past",
        "a replica that leads again acts on what agents said before it lost the lead",
        HANDLER,
        """        self._elsewhere = _misdirected(leader)
        self._store.clear()
""",
        """        self._elsewhere = _misdirected(leader)
""",
        "tests/unit/reports/test_handler.py::test_who_loses_the_lead_sends_everyone_on_who_waits",
    ),
    _bug(
        "acknowledged-before-written",
        "agents are told of a durable commit that the status does not know yet",
        DECIDE,
        "after if write else status, view.snapshot, processes, timing, spec.parallelism",
        "after, view.snapshot, processes, timing, spec.parallelism",
        "tests/unit/plan/test_life.py"
        "::test_no_commit_is_acknowledged_that_a_restarted_operator_would_not_know",
    ),
    # --- silence ------------------------------------------------------------------------
    _bug(
        "silence-is-death",
        "a silent worker whose node is not ready is lost though its gang advances",
        EXAMINE,
        "    if still is False:\n        left_alone",
        "    if False:\n        left_alone",
        "tests/unit/plan/test_recovery.py"
        "::test_no_nodes_condition_outweighs_that_the_gang_advances",
    ),
    _bug(
        "our-fault-is-theirs",
        "when nobody is heard of, everybody is restarted",
        EXAMINE,
        "deaf = min(worker.silent_seconds for worker in snapshot.workers) > HEARD_SECONDS",
        "deaf = False",
        "tests/unit/plan/test_recovery.py::test_nothing_is_done_when_all_reports_vanish_at_once",
        "tests/simulation/test_faults.py"
        "::test_when_nobody_can_be_heard_and_the_nodes_are_well_nothing_is_done",
    ),
    _bug(
        "silence-of-before",
        "a new leader counts silence from before it listened",
        SNAPSHOT,
        "heard_at = max(heard_at, agent.received_at if agent else pod.created_at)",
        "heard_at = agent.received_at if agent else pod.created_at",
        "tests/unit/plan/test_recovery.py::test_a_new_leader_gives_every_worker_the_time_to_speak",
    ),
    # --- attempts -----------------------------------------------------------------------
    _bug(
        "published-too-early",
        "the world is published when only some agents are there",
        FORMING,
        "    if size is None or size != hoped:\n",
        "    if ready and ready[0] is view.gang[0]:\n        size = hoped = len(ready)\n"
        "    if size is None or size != hoped:\n",
        "tests/unit/plan/test_life.py::test_no_world_is_published_while_one_agent_is_missing",
    ),
    _bug(
        "no-wait-for-the-old",
        "the next attempt starts while processes of the last one may live",
        RULES,
        "    if not pending:\n        return Step(close(view)",
        "    if True:\n        return Step(close(view)",
        "tests/unit/plan/test_recovery.py"
        "::test_without_the_sdk_the_next_attempt_waits_for_confirmed_death",
    ),
    _bug(
        "unfenced-taken-for-fenced",
        "where nobody fences the checkpoints, a worker that may live is given up all the same",
        RULES,
        "    if not view.status.checkpoint.fenced:\n        return False\n",
        "",
        "tests/unit/plan/test_recovery.py"
        "::test_without_the_sdk_the_next_attempt_waits_for_confirmed_death",
    ),
    _bug(
        "survivors-deleted",
        "all pods are replaced where one was lost",
        ATTEMPT,
        "        if worker.slot in view.diagnosis.lost_slots\n",
        "        if True\n",
        "tests/unit/plan/test_recovery.py::test_only_the_lost_pod_is_replaced",
    ),
    _bug(
        "exclusion-forgotten",
        "the pod of a lost node is put on that node again",
        ATTEMPT,
        "        live.append(Exclusion(node=node, until=until, reason=finding.reason))\n",
        "",
        "tests/unit/plan/test_recovery.py"
        "::test_a_lost_node_is_noticed_by_silence_while_the_gang_stands_still",
    ),
    _bug(
        "number-from-one",
        "a job applied anew uses the attempt numbers of its former self",
        ATTEMPT,
        "number = max([attempt.number, *(highest + 1 for highest in found)])",
        "number = attempt.number",
        "tests/unit/plan/test_recovery.py::test_the_first_attempt_opens_above_what_lies_on_disk",
    ),
    _bug(
        "zombies-commit-restored",
        "the newest commit on disk is the restore point, whoever wrote it",
        ATTEMPT,
        "    welcome = [commit for commit in known if in_lineage(commit, lineage)]\n",
        "    welcome = known\n",
        "tests/unit/plan/test_recovery.py::test_a_zombies_later_commit_is_never_a_restore_point",
    ),
    _bug(
        "restored-from-nothing",
        "the next attempt does not know what is durable, and begins from nothing",
        ATTEMPT,
        '"restore_step": commit.step if commit else None,',
        '"restore_step": None,',
        "tests/unit/plan/test_recovery.py"
        "::test_a_failed_process_is_restarted_at_once_in_the_same_pods",
    ),
    _bug(
        "some-is-all",
        "the job has succeeded when the first worker has",
        RULES,
        "if not all(succeeded(worker, attempt.number) for worker in view.gang):",
        "if not any(succeeded(worker, attempt.number) for worker in view.gang):",
        "tests/unit/plan/test_end.py::test_a_job_has_succeeded_only_when_its_last_worker_has",
    ),
    _bug(
        "outage-is-work",
        "a job that ends while no operator is there works on until one comes",
        RULES,
        "ended_at = min(max([begin, *times]), view.now) if times else view.now",
        "ended_at = view.now",
        "tests/unit/plan/test_outage.py"
        "::test_a_jobs_time_ends_with_its_last_process_not_when_the_operator_hears_of_it",
    ),
    _bug(
        "outage-stays-work",
        "what was counted as work after a job's end is not taken back",
        SPENDING,
        "        account.take_back(end)\n",
        "",
        "tests/unit/plan/test_outage.py"
        "::test_so_it_does_when_an_operator_was_there_and_could_not_hear_of_it",
    ),
    _bug(
        "outage-is-no-start",
        "an operator that comes back ends a start that it could not have heard of",
        RULES,
        "    told_since = max(attempt.published_at or view.now, view.snapshot.listening_since)\n",
        "    told_since = attempt.published_at or view.now\n",
        "tests/unit/plan/test_outage.py::test_a_start_that_nobody_was_told_of_is_told_then",
    ),
    _bug(
        "outage-is-no-stop",
        "an operator that comes back replaces whoever it has not told to stop yet",
        ATTEMPT,
        "max(view.attempt.stopping_at or view.now, view.snapshot.listening_since)",
        "view.attempt.stopping_at or view.now",
        "tests/unit/plan/test_outage.py"
        "::test_those_who_were_to_stop_are_told_once_more_before_their_pods_are_replaced",
    ),
    _bug(
        "unconfirmed-start-waited-for",
        "a start that one worker never confirms is waited for without end",
        RULES,
        "    if view.now >= limit and not vanished:\n",
        "    if False:\n",
        "tests/unit/plan/test_recovery.py"
        "::test_a_start_that_not_all_confirm_is_formed_again_uncharged",
    ),
    # --- gangs --------------------------------------------------------------------------
    _bug(
        "half-a-gang",
        "a gang keeps its pods when the API server has refused one of them",
        FORMING,
        "    if not view.snapshot.refusal:\n        return None\n",
        "    if True:\n        return None\n",
        "tests/unit/plan/test_gang.py::test_a_refused_pod_releases_the_whole_gang",
        "tests/simulation/test_refusals.py::test_half_a_gang_is_released_within_a_second",
    ),
    _bug(
        "gang-held-for-ever",
        "a gang that never gets together keeps its nodes",
        FORMING,
        "    if not held or view.now < _start_limit(view):\n",
        "    if True:\n",
        "tests/unit/plan/test_gang.py::test_a_gang_that_is_not_connected_in_time_is_released",
    ),
    _bug(
        "what-fits-is-created",
        "of a gang that does not fit, those pods are created that do",
        BOOK,
        "        if fits < len(request.slots):\n            return NoRoom(explain(",
        "        request = __import__('dataclasses').replace(request, slots=request.slots[:fits])\n"
        "        if not fits:\n            return NoRoom(explain(",
        "tests/unit/gang/test_placement.py::test_a_gang_that_does_not_fit_whole_gets_nothing",
    ),
    _bug(
        "promises-weigh-nothing",
        "the same room is promised to two gangs",
        BOOK,
        "claim = Claim(node, dict(requests), ours=True)",
        "claim = Claim(node, {}, ours=True)",
        "tests/unit/gang/test_book.py::test_a_promise_holds_the_room_until_the_pod_does",
    ),
    _bug(
        "promise-never-ends",
        "the room of a pod that was never created is lost",
        BOOK,
        "            if promise.until > now:\n                return\n",
        "            if True:\n                return\n",
        "tests/unit/gang/test_book.py::test_a_promise_whose_pod_never_shows_up_ends_by_itself",
    ),
    _bug(
        "large-gangs-starve",
        "small gangs take the room that a large one has long been waiting for",
        BOOK,
        "            if gang.key != key and gang < place and gang.since <= patient_until\n",
        "            if False\n",
        "tests/unit/gang/test_placement.py"
        "::test_once_its_patience_is_over_an_elder_is_overtaken_no_more",
    ),
    # --- the life of a job --------------------------------------------------------------
    _bug(
        "deadline-ignored",
        "a job goes on after its deadline",
        RULES,
        "    if due is None or view.now < due.at:\n",
        "    if True:\n",
        "tests/unit/plan/test_gang.py::test_the_active_deadline_fails_the_job",
    ),
    _bug(
        "ttl-deletes-the-unfinished",
        "the time to live counts from the beginning: a job is deleted while it trains",
        DECIDE,
        """            done is not None
            and spec.ttl_seconds_after_finished is not None
            and now >= done + timedelta(seconds=spec.ttl_seconds_after_finished)
""",
        """            spec.ttl_seconds_after_finished is not None
            and now
            >= (done or after.active_since or now)
            + timedelta(seconds=spec.ttl_seconds_after_finished)
""",
        "tests/unit/plan/test_end.py::test_a_job_that_trains_outlives_any_time_to_live",
    ),
    _bug(
        "ttl-ignored",
        "a finished job is never deleted",
        DECIDE,
        """            and now >= done + timedelta(seconds=spec.ttl_seconds_after_finished)
""",
        """            and now >= done + timedelta(days=spec.ttl_seconds_after_finished + 1)
""",
        "tests/unit/plan/test_end.py::test_a_finished_job_is_deleted_when_its_time_to_live_is_over",
    ),
    _bug(
        "clean-pod-policy-none-ignored",
        "pods that the user wants to keep are cleaned up",
        DECIDE,
        "    if spec.clean_pod_policy is CleanPodPolicy.NONE:\n        return ()\n",
        "",
        "tests/unit/plan/test_end.py::test_a_finished_jobs_pods_are_cleaned_up_as_its_user_says",
    ),
    _bug(
        "clean-pod-policy-all-ignored",
        "pods that the user wants deleted are kept",
        DECIDE,
        "if not pod.deleting and (every or not pod.terminal))",
        "if not pod.deleting and not pod.terminal and every in (True, False))",
        "tests/unit/plan/test_end.py::test_a_finished_jobs_pods_are_cleaned_up_as_its_user_says",
    ),
    _bug(
        "suspend-ignored",
        "a job that is suspended while it trains goes on",
        RULES,
        "    if not view.spec.suspend or attempt is None or attempt.state not in LIVE:\n",
        "    if True:\n",
        "tests/unit/plan/test_gang.py"
        "::test_suspend_deletes_the_pods_and_resume_goes_on_from_the_checkpoint",
    ),
    _bug(
        "old-spec-wins",
        "a template that was refused once is never tried again",
        RECONCILE,
        """        or known.reason != TEMPLATE_ACCEPTED
        or known.observed_generation != job["metadata"].get("generation", 0)
""",
        "",
        "tests/simulation/test_refusals.py"
        "::test_a_template_that_the_api_server_refuses_creates_nothing",
    ),
    _bug(
        "policy-stops-survivors",
        "a gang that has its pods does not go on when its namespace would refuse another",
        RULES,
        '    refusal = answer.refusal if answer and not held else ""\n',
        '    refusal = answer.refusal if answer else ""\n',
        "tests/unit/plan/test_gang.py"
        "::test_a_gang_that_has_its_pods_goes_on_when_its_namespace_allows_no_other[None]",
    ),
    _bug(
        "policy-taken-for-a-quota",
        "a template that a policy forbids is made and refused without end",
        RECONCILE,
        'return TemplateAnswer("" if any(one in text for one in PASSING) else text)',
        "return TemplateAnswer()",
        "tests/simulation/test_refusals.py::test_what_a_policy_forbids_is_said_once_and_never_created"
        '[pods "job-0-0" is forbidden: failed quota: team: must specify limits.memory]',
    ),
    _bug(
        "suspended-unsaved",
        "a suspension ends the training without asking it to save",
        RULES,
        "        if attempt.save_by is None and can_ask(view):\n",
        "        if False:\n",
        "tests/unit/plan/test_gang.py::test_a_job_of_fixed_size_is_saved_before_it_is_suspended",
    ),
    _bug(
        "fault-charged-to-a-suspension",
        "a job that fails while it is about to be suspended pays for it, or fails for good",
        RULES,
        "    if cause is None:\n        if attempt.save_by is None and view.unheard",
        "    if True:\n        if attempt.save_by is None and view.unheard",
        "tests/unit/plan/test_gang.py"
        "::test_a_fault_while_the_job_is_about_to_be_suspended_is_not_charged",
    ),
    # --- the ledger ---------------------------------------------------------------------
    _bug(
        "span-counted-twice",
        "a span of time is added to the ledger at each write",
        ACCOUNTING,
        "until=_milliseconds(status.accounted_until or created_at),",
        "until=_milliseconds(created_at),",
        "tests/unit/plan/test_life.py::test_work_becomes_productive_with_the_commit_that_covers_it",
    ),
    _bug(
        "span-from-the-present",
        "a failure is dated from when we noticed it",
        SPENDING,
        "    end = min(attempt.ended_at or now, now)\n",
        "    end = now\n",
        "tests/unit/plan/test_recovery.py::test_detection_and_recovery_are_priced",
    ),
    _bug(
        "productive-at-once",
        "work counts as productive before any checkpoint covers it",
        SPENDING,
        "    if attempt.ended_at is None:\n        return\n",
        "    if attempt.ended_at is None:\n        account.settle(Bucket.PRODUCTIVE)\n"
        "        return\n",
        "tests/unit/plan/test_life.py::test_work_becomes_productive_with_the_commit_that_covers_it",
    ),
    _bug(
        "nobody-pays",
        "what a fault costs until the decision is nobody's price",
        SPENDING,
        "    account.charge(attempt.number)\n    account.reclassify_tail(end",
        "    account.reclassify_tail(end",
        "tests/unit/plan/test_incidents.py"
        "::test_prices_sum_to_the_losses_however_many_incidents_there_were",
    ),
    _bug(
        "stall-counted-twice",
        "all that training has ever stood still is taken out of its work at each pass",
        ACCOUNTING,
        "            known = self._stalled.get(bucket, 0)\n",
        "            known = 0\n",
        "tests/unit/ledger/test_accounting.py"
        "::test_a_stall_is_counted_once_however_often_it_is_told",
    ),
    _bug(
        "save-is-work",
        "the time of saving a checkpoint counts as work after it",
        ACCOUNTING,
        " - stalled_since * self._tally.weight",
        "",
        "tests/unit/ledger/test_accounting.py"
        "::test_a_commit_settles_all_work_before_it_though_its_saving_stood_still",
    ),
    # --- the size of the gang ------------------------------------------------------------
    _bug(
        "size-splits-a-replica",
        "a gang of a size that tensor parallelism cannot be split over",
        SIZING,
        "    return None if left or degree == 0 or degree % parallelism.expert else degree\n",
        "    return degree or None\n",
        "tests/unit/plan/test_sizing.py"
        "::test_a_size_is_legal_when_the_parallelism_and_the_batch_come_out_whole",
    ),
    _bug(
        "smallest-size",
        "a gang that must shrink takes the smallest size",
        SIZING,
        "    return sizes[index - 1] if index else None\n",
        "    return sizes[0] if index else None\n",
        "tests/unit/plan/test_sizing.py"
        "::test_the_largest_legal_size_is_the_largest_that_can_be_filled",
    ),
    _bug(
        "idling-forgotten",
        "each change of the idle capacity begins the count of its idling anew",
        SIZING,
        "        return Idle(round(self.worker_seconds(now) * 1000), joinable, now)\n",
        "        return Idle(0, joinable, now)\n",
        "tests/unit/plan/test_sizing.py::test_idle_capacity_adds_up_over_changes_of_its_size",
    ),
    _bug(
        "asked-for-a-step-that-is-done",
        "ranks are asked to save a step that some have left behind",
        SAVING,
        "    step = (progress.step or 0) + progress.steps_until_told(view.now)\n",
        "    step = progress.step or 0\n",
        "tests/unit/plan/test_elastic.py"
        "::test_the_training_is_asked_to_save_after_a_step_that_is_yet_to_come",
    ),
    _bug(
        "any-commit-is-the-asked-one",
        "an older commit is taken for the one that was asked for",
        SAVING,
        " committed is not None and committed.step >= attempt.save_step\n",
        " committed is not None\n",
        "tests/unit/plan/test_elastic.py"
        "::test_a_save_that_does_not_come_is_waited_for_as_long_as_said",
    ),
    _bug(
        "acts-before-it-has-heard",
        "an operator that has just begun to listen takes nobody's word for no word",
        VIEW,
        "            one.agent is None and one.pod is not None",
        "            one is None and one.pod is not None",
        "tests/unit/plan/test_elastic.py"
        "::test_an_operator_that_has_heard_nobody_yet_asks_before_it_acts",
    ),
    _bug(
        "those-left-over-are-let-go",
        "who waits to join is let go although wanted",
        RESIZE,
        "    surplus = waiting[max(0, view.wanted + view.spares - len(view.gang)) :]\n",
        "    surplus = waiting\n",
        "tests/unit/plan/test_elastic.py::test_those_left_over_at_a_legal_size_wait_as_spares",
    ),
    _bug(
        "growth-never-snoozes",
        "a growth that failed is tried again at once",
        RESIZE,
        "    if any(not _taken_away(one) for one in failed):\n",
        "    if not failed:\n",
        "tests/unit/plan/test_elastic.py::test_a_joiner_that_fails_costs_the_gang_nothing",
    ),
    _bug(
        "preemption-charged",
        "the user pays for a worker that the cluster takes away",
        NOTICES,
        "message=message, charged=False, ended_at=view.now)\n",
        "message=message, charged=True, ended_at=view.now)\n",
        "tests/unit/plan/test_notices.py",
    ),
    # --- caches, queue, lease -----------------------------------------------------------
    _bug(
        "gone-ignored",
        "a watch that has expired (410) is begun again from the same place",
        CACHES,
        "            self._must_list |= not _away(error)\n",
        "            self._must_list |= False\n",
        "tests/unit/effects/test_caches.py::test_what_a_watch_cannot_tell_any_more_is_listed",
    ),
    _bug(
        "list-only-adds",
        "a pod that vanished while no watch was open stays in the cache for ever",
        CACHES,
        "            if here and told and _uid(obj) not in listed:\n",
        "            if False:\n",
        "tests/unit/effects/test_caches.py"
        "::test_a_pod_that_vanished_while_nobody_looked_is_deleted_by_the_list",
    ),
    _bug(
        "late-event-wins",
        "a late event of the watch takes back what our own write returned",
        CACHES,
        "            if not rewound and _version(obj) <= _version(old):\n",
        "            if False:\n",
        "tests/unit/effects/test_caches.py::test_a_late_event_does_not_roll_our_write_back",
    ),
    _bug(
        "late-answer-revives",
        "a job that was deleted comes back by a late answer",
        JOBS,
        "self._tombstones.get(key, -1)\n",
        "-1\n",
        "tests/unit/controller/test_jobs.py::test_a_late_answer_does_not_bring_a_deleted_job_back",
    ),
    _bug(
        "wake-during-a-visit-lost",
        "what happens while a job is being visited is not looked at",
        QUEUE,
        "        if state.running:\n            state.woken = True\n",
        "        if state.running:\n            pass\n",
        "tests/unit/controller/test_queue.py::test_wakes_during_a_visit_lead_to_exactly_one_more",
    ),
    _bug(
        "two-visits-at-once",
        "two passes over one job run at the same time",
        QUEUE,
        "        if state.running:\n            state.woken = True\n        elif",
        "        if",
        "tests/unit/controller/test_queue.py::test_wakes_during_a_visit_lead_to_exactly_one_more",
    ),
    _bug(
        "frozen-leader-acts",
        "a replica that was frozen past its lease goes on acting",
        LEASE,
        "        return self.acquired.is_set() and _now() < self._act_until\n",
        "        return self.acquired.is_set()\n",
        "tests/unit/effects/test_lease.py"
        "::test_a_frozen_process_knows_at_its_first_instruction_that_it_may_not_act",
    ),
    _bug(
        "lease-from-the-answer",
        "a leader counts its time from the answer, and acts after another has taken over",
        LEASE,
        "            self._act_until = sent_at + self._timing.deadline_seconds\n",
        "            self._act_until = _now() + self._timing.duration_seconds\n",
        "tests/unit/effects/test_lease.py"
        "::test_a_leader_that_is_cut_off_stops_before_another_begins",
    ),
    # --- the agent ----------------------------------------------------------------------
    _bug(
        "agent-kills-on-silence",
        "healthy processes are stopped because the operator has been silent for long",
        CORE,
        """        if not run.succeeded or run.ended_at is None or self._leaving:
            return None
        return max(self._heard_at, run.ended_at) + SILENCE_AFTER_SUCCESS_MS
""",
        """        if self._leaving:
            return None
        return max(self._heard_at, run.ended_at or 0) + SILENCE_AFTER_SUCCESS_MS
""",
        "tests/unit/agent/test_core.py::test_silence_of_any_length_stops_nothing",
    ),
    _bug(
        "agent-restarts-by-itself",
        "the agent starts an attempt that nobody named when its processes have failed",
        CORE,
        "        if self._pending:\n            commands += self._begin(self._pending, now)\n",
        "        if run.failed:\n"
        "            self._pending = replace(run.world, attempt=run.number + 1)\n"
        "        if self._pending:\n            commands += self._begin(self._pending, now)\n",
        "tests/unit/agent/test_core.py"
        "::test_failed_processes_wait_for_the_operator_however_long_it_takes",
    ),
    _bug(
        "agent-obeys-older-answers",
        "an answer that was overtaken by a newer one is obeyed",
        CORE,
        "        if sequence < self._answered:\n            return ()\n",
        "",
        "tests/unit/agent/test_core.py"
        "::test_the_answer_to_an_older_request_never_overrides_a_newer_one",
    ),
    _bug(
        "agent-runs-older-attempts",
        "an attempt that was already run, or stopped, is run again",
        CORE,
        "        if world.attempt <= self._fence or world.processes < 1 or",
        "        if world.processes < 1 or",
        "tests/unit/agent/test_core.py::test_an_older_run_order_is_ignored",
    ),
    _bug(
        "agent-runs-two-attempts",
        "an attempt is started beside the processes of the one before",
        CORE,
        "        if not self.occupied:\n            return self._begin(world, now)\n"
        "        self._pending",
        "        if True:\n            return self._begin(world, now)\n        self._pending",
        "tests/unit/agent/test_core.py"
        "::test_a_later_attempt_starts_only_when_nothing_of_the_present_one_is_alive",
    ),
    _bug(
        "stopped-said-too-early",
        "the agent says stopped when its own children have ended, though theirs still live",
        CORE,
        "        return max(self.living, 0 if self.empty else 1)\n",
        "        return self.living\n",
        "tests/unit/agent/test_core.py"
        "::test_stopped_is_reported_when_nothing_is_left_alive_and_not_before",
    ),
    # --- checkpoints --------------------------------------------------------------------
    _bug(
        "prune-the-newest",
        "the newest checkpoints are deleted, and the oldest kept",
        PRUNE,
        "newest_first = sorted(found, key=lambda one: one.place, reverse=True)",
        "newest_first = sorted(found, key=lambda one: one.place)",
        "tests/unit/sdk/test_prune.py::test_what_goes",
    ),
    _bug(
        "prune-unacknowledged",
        "checkpoints are deleted before the operator knows of a newer one",
        SAVES,
        "durable = self._durable() if self._managed else newest.commit",
        "durable = newest.commit",
        "tests/unit/sdk/test_prune.py::test_without_an_acknowledgement_everything_stays",
    ),
    _bug(
        "zombie-prunes",
        "a zombie deletes by the acknowledgement that its successor was given",
        SAVES,
        'if state["attempt"] != self._attempt or state["durable"] is None:',
        'if state["durable"] is None:',
        "tests/unit/sdk/test_prune.py"
        "::test_not_even_its_own_commit_frees_a_zombie_when_its_successor_was_told",
    ),
    _bug(
        "restore-point-pruned",
        "the checkpoint from which this attempt restored is deleted while it may be needed",
        PRUNE,
        "        and one.place.commit != in_use\n",
        "",
        "tests/unit/sdk/test_prune.py::test_the_restore_point_in_use_stays",
    ),
    _bug(
        "one-checkpoint-kept",
        "only one good checkpoint is kept",
        PRUNE,
        "    ][: max(keep, MINIMUM_KEPT)]\n",
        "    ][:keep]\n",
        "tests/unit/sdk/test_prune.py::test_what_goes",
    ),
    _bug(
        "no-fence-at-the-read",
        "what a zombie has committed is restored",
        LINEAGE,
        "return self._everything or place.step <= self._last_step.get(place.attempt, -1)",
        "return True",
        "tests/unit/sdk/test_restore.py"
        "::test_what_a_zombie_commits_after_its_successor_opened_is_never_read",
    ),
    _bug(
        "manifest-first",
        "a save is published before its data is there",
        SAVES,
        "                os.mkdir(staging)\n                yield",
        "                os.mkdir(staging)\n"
        "                if ranks.rank == 0:\n"
        "                    early = Manifest(place.attempt, place.step, ranks.size)\n"
        "                    target = os.path.join(path, layout.MANIFEST)\n"
        "                    files.write(target, layout.seal(early))\n"
        "                yield",
        "tests/unit/sdk/test_saving.py::test_the_manifest_follows_when_everything_else_is_on_disk",
    ),
    _bug(
        "data-not-synced",
        "data may still be in memory only when the manifest is on disk",
        FILES,
        "        _sync(path)\n        touched",
        "        touched",
        "tests/unit/sdk/test_saving.py::test_the_manifest_follows_when_everything_else_is_on_disk",
    ),
    _bug(
        "manifest-in-place",
        "a manifest is written in its place, and a crash leaves half of it",
        FILES,
        '    unfinished = path + ".tmp"\n',
        "    unfinished = path\n",
        "tests/unit/sdk/test_kill.py::test_a_kill_during_a_save_leaves_the_old_or_the_new",
    ),
    _bug(
        "data-not-verified",
        "a file with the right size and wrong content is restored",
        FILES,
        "    if deep and layout.checksum(path) != file.checksum:\n",
        "    if False:\n",
        "tests/unit/sdk/test_restore.py"
        "::test_a_damaged_checkpoint_is_passed_over_for_the_next_older",
    ),
    _bug(
        "manifest-not-verified",
        "a damaged manifest is believed",
        LAYOUT,
        '    if body.pop("checksum", None) != _checksum_of(body):\n',
        '    if body.pop("checksum", None) is None:\n',
        "tests/unit/sdk/test_layout.py::test_a_damaged_manifest_is_never_believed",
    ),
    _bug(
        "saves-shared",
        "two saves of one step write into the same directory",
        SAVES,
        "                with contextlib.suppress(FileExistsError):\n"
        "                    os.mkdir(os.path.join(self.directory, place.name))\n"
        "                    break\n",
        "                os.makedirs(os.path.join(self.directory, place.name), exist_ok=True)\n"
        "                break\n",
        "tests/unit/sdk/test_saving.py::test_every_save_has_a_directory_of_its_own",
    ),
    _bug(
        "data-deleted-before-the-manifest",
        "a prune that is killed leaves a published save without its data",
        FILES,
        """    try:
        os.unlink(os.path.join(path, layout.MANIFEST))
    except FileNotFoundError:
        pass
    else:
        sync_directory(path)
    shutil.rmtree(path)
""",
        """    for name in sorted(os.listdir(path), key=lambda one: one == layout.MANIFEST):
        inside = os.path.join(path, name)
        shutil.rmtree(inside) if os.path.isdir(inside) else os.unlink(inside)
    shutil.rmtree(path)
""",
        "tests/unit/sdk/test_kill.py::test_a_kill_during_a_prune_leaves_what_must_stay",
    ),
)

VARIANTS: Mapping[str, Variant] = {variant.name: variant for variant in _ALL}
