"""The loop that joins the core to the world: events in, commands out, on one thread.

Other threads (the link, the output, the trainer's datagrams, the disk) and signal handlers only
put jobs into the mailbox. A job that fails is written down, and the loop goes on: a fault of
ours must not cost the user a training run.
"""

import contextlib
import importlib.machinery
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Callable, List, Mapping, Optional, Sequence, TypeVar

from goodput import protocol
from goodput.agent import core, disk, trainer
from goodput.agent.core import Core
from goodput.agent.environment import Places, environments, error_file
from goodput.agent.link import Credentials, Link, Route
from goodput.agent.output import Output
from goodput.agent.processes import Launch, Processes
from goodput.agent.settings import Settings, SettingsError
from goodput.protocol import Disk, SyncAnswer, World

VERSION = "0.1.0"
TERMINATION_LOG = "/dev/termination-log"
DEBUG_FILE = "agent-debug.log"
TRACKER_SECONDS = 5.0
SURVEY_SECONDS = 10.0
STRAYS_SECONDS = 0.2
FAREWELL_SECONDS = 2.0
MAILBOX_SECONDS = 30.0
QUIET_SECONDS = 15.0
"""An operator that is away for less is not worth a line in the user's log."""

FORWARDED = (
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)

T = TypeVar("T")
Job = Callable[[], None]


@dataclass(frozen=True)
class Files:
    """The paths through which the agent meets its pod."""

    run_dir: str = protocol.AGENT_RUN_DIR
    zipapp: str = protocol.AGENT_ZIPAPP
    credentials: Credentials = field(default_factory=Credentials)
    termination_log: str = TERMINATION_LOG


class Supervisor:
    """One agent at work. Must be made and run on the main thread, for the signals' sake."""

    def __init__(
        self,
        settings: Settings,
        command: Sequence[str],
        environ: Mapping[str, str],
        files: Files,
        output: Output,
    ) -> None:
        self._settings = settings
        self._command = list(command)
        self._environ = dict(environ)
        self._files = files
        self._output = output
        self._mailbox: "SimpleQueue[Job]" = SimpleQueue()
        self._core = Core(settings, _now(), VERSION)
        self._processes = Processes(output)
        self._complaints = Complaints(time.monotonic())
        self._exit_code: Optional[int] = None
        self._stopped = threading.Event()
        self._run_dir = _usable(files.run_dir)
        self._trainer = trainer.TrainerSocket(
            self._run_dir, lambda datagram: self._event(lambda: self._core.heard(datagram, _now()))
        )
        self._link = Link(
            Route(settings.operator_url),
            files.credentials,
            build=lambda hold: self._ask(lambda: self._core.request(hold, _now())),
            deliver=self._deliver,
            trouble=self._trouble,
        )
        self._linked = False

    def run(self) -> int:
        """Serve until there is a reason to leave; return the agent's exit code."""
        self._listen_to_signals()
        self._core.port_found(free_port())
        directory = self._settings.checkpoint_directory
        if directory:
            probe = ".goodput-probe-{0.slot}-{0.incarnation}".format(self._settings)
            disk.survey_in_background(
                directory, probe, self._surveyed, self._stopped, SURVEY_SECONDS
            )
            disk.watch_tracker(directory, self._tracked, self._stopped, TRACKER_SECONDS)
        while self._exit_code is None:
            self._guarded(self._link_when_ready)
            job = self._next_job()
            if job is not None:
                self._guarded(job)
            self._guarded(self._tick)
        self._stopped.set()
        self._trainer.close()
        return self._exit_code

    # --- events -----------------------------------------------------------------------------

    def _event(self, job: Callable[[], core.Commands]) -> None:
        """Have the core take in an event on the main thread, and carry out what it says."""
        self._mailbox.put(lambda: self._carry_out(job()))

    def _ask(self, question: Callable[[], T]) -> T:
        """Have a question answered on the main thread. Raises TimeoutError."""
        answers: "SimpleQueue[T]" = SimpleQueue()
        self._mailbox.put(lambda: answers.put(question()))
        try:
            return answers.get(timeout=MAILBOX_SECONDS)
        except Empty:
            raise TimeoutError("the agent is busy") from None

    def _deliver(self, answer: SyncAnswer, sequence: int) -> None:
        def take() -> bool:
            self._carry_out(self._core.answered(answer, sequence, _now()))
            return True

        self._ask(take)  # the next request must know of this answer

    def _surveyed(self, found: Disk) -> None:
        self._event(lambda: self._core.surveyed(found, _now()))

    def _tracked(self, step: int) -> None:
        self._mailbox.put(lambda: self._core.tracked(step, _now()))

    def _trouble(self, why: str) -> None:
        def complain() -> None:
            line = self._complaints.about(why, time.monotonic())
            if line:
                self._output.say(line)

        self._mailbox.put(complain)

    def _listen_to_signals(self) -> None:
        def received(number: int, _frame: Optional[FrameType]) -> None:
            self._event(partial(self._signalled, number))

        for number in (signal.SIGTERM, signal.SIGCHLD, *FORWARDED):
            signal.signal(number, received)

    def _signalled(self, number: int) -> core.Commands:
        if number == signal.SIGCHLD:
            return ()  # every round of the loop reaps
        return self._core.signalled(number, _now())

    # --- the loop -----------------------------------------------------------------------------

    def _next_job(self) -> Optional[Job]:
        wake_at = self._core.wake_at()
        timeout = None if wake_at is None else max(0.0, (wake_at - _now()) / 1000)
        if self._core.occupied and not self._processes.running:
            # Without a subreaper the last orphan's end sends us no signal.
            timeout = STRAYS_SECONDS if timeout is None else min(timeout, STRAYS_SECONDS)
        try:
            return self._mailbox.get(timeout=timeout)
        except Empty:
            return None

    def _tick(self) -> None:
        attempt = self._core.attempt
        for end in self._processes.reap(_now()):
            self._carry_out(self._core.exited(attempt, end, _now()))
        if self._core.occupied and self._processes.empty():
            self._core.port_found(free_port())
            self._carry_out(self._core.emptied(_now()))
        self._carry_out(self._core.ticked(_now()))

    def _link_when_ready(self) -> None:
        if self._core.ready and not self._linked:
            self._linked = True
            self._link.start()

    def _guarded(self, job: Job) -> None:
        try:
            job()
        except Exception as error:  # noqa: BLE001 - see the module's docstring
            self._output.say("internal error, going on: {!r}".format(error))
            self._write_debug(traceback.format_exc())
            time.sleep(0.1)  # never a hot loop

    def _write_debug(self, text: str) -> None:
        path = os.path.join(self._run_dir, DEBUG_FILE)
        with contextlib.suppress(OSError), open(path, "a") as file:
            file.write(text)

    # --- commands -----------------------------------------------------------------------------

    def _carry_out(self, commands: core.Commands) -> None:
        for command in commands:
            if isinstance(command, core.Start):
                self._start(command.world)
            elif isinstance(command, core.Signal):
                self._processes.signal(command.number, command.everyone)
            elif isinstance(command, core.Report):
                self._link.hurry()
            elif isinstance(command, core.Publish):
                self._publish(command)
            elif isinstance(command, core.Say):
                self._output.say(command.text)
            else:
                self._leave(command)

    def _start(self, world: World) -> None:
        places = Places(
            run_dir=self._run_dir,
            socket=self._trainer.path,
            sdk="" if _importable_elsewhere(self._files.zipapp) else self._files.zipapp,
        )
        all_of_them = environments(world, self._settings.launcher, self._environ, places)
        for local_rank, environment in enumerate(all_of_them):
            rank = world.rank_offset + local_rank
            launch = Launch(
                rank=rank,
                command=self._command,
                environment=environment,
                error_file=error_file(self._run_dir, world.attempt, rank),
                alone=len(all_of_them) == 1,
            )
            problem = self._processes.start(launch, _now())
            if problem is not None:
                self._carry_out(self._core.exited(world.attempt, problem, _now()))
                return
            self._carry_out(self._core.spawned(world.attempt, rank, _now()))

    def _publish(self, command: core.Publish) -> None:
        try:
            trainer.publish(self._run_dir, command.attempt, command.durable, command.save_step)
        except OSError as error:
            self._output.say("cannot write to {}: {}".format(self._run_dir, error))

    def _leave(self, command: core.Leave) -> None:
        self._link.stop()
        self._link.farewell(self._core.request(0.0, _now()), FAREWELL_SECONDS)
        self._output.say("leaving with exit code {}: {}".format(command.exit_code, command.message))
        write_termination_message(self._files.termination_log, command.message)
        self._exit_code = command.exit_code


class Complaints:
    """Says that the operator is away, seldom: after a while, then at doubling intervals."""

    def __init__(self, now: float) -> None:
        self._away_since: Optional[float] = None
        self._interval_seconds = 60.0
        self._next_at = now
        self._said = False

    def about(self, why: str, now: float) -> str:
        """Return the line to say, "" for none; an empty `why` means that all is well."""
        if not why:
            back = self._said
            self._away_since, self._said = None, False
            return "the operator is back" if back else ""
        if self._away_since is None:
            self._away_since = now
            self._interval_seconds = 60.0
            self._next_at = max(self._next_at, now + QUIET_SECONDS)
        if now < self._next_at:
            return ""
        self._said = True
        self._next_at = now + self._interval_seconds
        self._interval_seconds = min(2 * self._interval_seconds, 3600.0)
        return "the operator does not answer ({}); what runs goes on".format(why)


def free_port() -> int:
    """Return a TCP port that is free now.

    It is taken from below the range in which Linux chooses the ports of outgoing connections,
    so that none of them takes it before rank 0 does. Returns 0 when there is none.
    """
    for candidate in [*random.sample(range(20_000, 30_000), 20), 0]:
        try:
            with _any_address() as listener:
                listener.bind(("", candidate))
                port: int = listener.getsockname()[1]
                return port
        except OSError:
            continue
    return 0


def _any_address() -> socket.socket:
    """Return a socket that is bound on IPv4 and IPv6 alike, where there is IPv6."""
    try:
        both = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    except OSError:
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with contextlib.suppress(OSError):
        both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return both


def write_termination_message(path: str, message: str) -> None:
    """Leave the words that `kubectl describe pod` shows."""
    with contextlib.suppress(OSError), open(path, "w") as file:
        file.write(message + "\n")


def _importable_elsewhere(zipapp: str) -> bool:
    """Whether the image brings a `goodput` of its own, which then is the one to use."""
    path = [entry for entry in sys.path if os.path.abspath(entry) != os.path.abspath(zipapp)]
    return importlib.machinery.PathFinder.find_spec("goodput", path) is not None


def _usable(run_dir: str) -> str:
    """Return the directory, or a temporary one when it cannot be written."""
    try:
        os.makedirs(run_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=run_dir):
            return run_dir
    except OSError:
        return tempfile.mkdtemp(prefix="goodput-")


def _now() -> int:
    return int(time.monotonic() * 1000)


def install(source: str, target: str) -> None:
    """Put the zipapp where the trainer's container finds it, and make its run directory.

    Raises:
        OSError: the target cannot be written.
    """
    directory = os.path.dirname(os.path.abspath(target))
    run_dir = os.path.join(directory, os.path.basename(protocol.AGENT_RUN_DIR))
    os.makedirs(run_dir, exist_ok=True)
    os.chmod(run_dir, 0o1777)  # noqa: S103 - the trainer's user is not ours
    shutil.copyfile(source, target + ".new")
    os.chmod(target + ".new", 0o555)  # noqa: S103
    os.replace(target + ".new", target)


def main(arguments: List[str]) -> None:
    """Run `install TARGET` (the init container) or `-- COMMAND…` (the trainer's container)."""
    if len(arguments) == 2 and arguments[0] == "install":
        install(sys.argv[0], arguments[1])
        return
    if len(arguments) < 2 or arguments[0] != "--":
        sys.exit("usage: agent.pyz -- COMMAND [ARGUMENT...] | agent.pyz install TARGET")
    files = Files(zipapp=os.path.abspath(sys.argv[0]))
    output = Output()
    try:
        settings = Settings.from_environ(os.environ)
        supervisor = Supervisor(settings, arguments[1:], os.environ, files, output)
    except (SettingsError, ValueError, OSError) as error:
        message = "the agent cannot start: {}".format(error)
        write_termination_message(files.termination_log, message)
        sys.exit("goodput: " + message)
    exit_code = supervisor.run()
    output.close()
    os._exit(exit_code)  # threads that hang in a file system must not hold us
