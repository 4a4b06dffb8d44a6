"""Read the arguments, read the cluster, show a page; errors are sentences, never tracebacks."""

import argparse
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

from goodput_operator.cli.access import Cluster, environment_door
from goodput_operator.cli.job import Job, read_event, read_job, read_pod
from goodput_operator.cli.page import Page, Span, line
from goodput_operator.cli.terminal import room_of, show
from goodput_operator.errors import GoodputError, UnavailableError

WATCH_SECONDS = 2.0
"""How often `--watch` looks: by `get`, which takes no further right."""

NOT_DONE, USAGE, BROKEN_OFF = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command. Exit status 0; 1 for what is refused or not there; 2 for bad flags."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a console may not know every character
        sys.stdout.reconfigure(errors="replace")
    try:
        options.run(options)
        sys.stdout.flush()
    except GoodputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(NOT_DONE)
    except KeyboardInterrupt:
        sys.exit(BROKEN_OFF)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _top(options: argparse.Namespace) -> None:
    from goodput_operator.cli.top import top_page

    cluster = _cluster(options)
    jobs = [read_job(raw) for raw in cluster.jobs(options.all_namespaces)]
    _show(top_page(jobs, None if options.all_namespaces else cluster.namespace))


def _status(options: argparse.Namespace) -> None:
    from goodput_operator.cli.figures import figure_lines
    from goodput_operator.cli.status import status_json, status_page

    if options.watch:
        _watch(options)
        return
    job = _job(options)
    if options.output == "json":
        _write(status_json(job, _now(), options.steps))
    else:
        room = room_of(sys.stdout)
        page = status_page(job, _now(), options.steps, room)
        _show((*page, *figure_lines(job, room)))


def _watch(options: argparse.Namespace) -> None:
    from goodput_operator.cli.status import status_page
    from goodput_operator.cli.terminal import watch

    cluster = _cluster(options)
    seen: Page = ()

    def look() -> tuple[Page, bool]:
        nonlocal seen
        try:
            job = read_job(cluster.job(options.job))
        except UnavailableError as error:
            if not seen:
                raise
            problem = line(Span(f"Now it cannot be read: {error}", "warn"))
            return (seen[0], problem, *seen[1:]), True  # at the top, as a screen may be small
        seen = status_page(job, _now(), options.steps, room_of(sys.stdout))
        return seen, job.finished_at is None

    watch(look, WATCH_SECONDS, sys.stdout, os.environ)


def _explain(options: argparse.Namespace) -> None:
    from goodput_operator.cli.explain import explain_page

    job, pods, events, notes = _cluster(options).about(options.job)
    _show(
        explain_page(
            read_job(job),
            [read_pod(one) for one in pods],
            [read_event(one) for one in events],
            notes,
            _now(),
        )
    )


def _timeline(options: argparse.Namespace) -> None:
    from goodput_operator.cli import timeline as form

    timeline = form.timeline_of(_job(options), _now())
    if options.output == "text":
        _show(form.timeline_page(timeline))
    elif options.output == "html":
        from goodput_operator.cli.waterfall import timeline_html

        _write(timeline_html(timeline))
    else:
        _write((form.timeline_json if options.output == "json" else form.timeline_csv)(timeline))


def _report(options: argparse.Namespace) -> None:
    from goodput_operator.cli import report as form
    from goodput_operator.cli.prometheus import Prometheus, PrometheusError

    prometheus = Prometheus(options.prometheus, _token(options.prometheus_token_file))
    report = form.gather(prometheus.ask, form.slices_of(options.since, _now()))
    if not report.jobs:
        raise PrometheusError(
            f"Prometheus at {options.prometheus} has no {form.COUNTER} of this time: does it "
            "scrape the operator's metrics (port 8080), with honor_labels?"
        )
    price = None if options.price is None else form.Price(options.price, options.currency)
    if options.output == "html":
        _write(form.report_html(report, price))
    else:
        _show(form.report_page(report, price))


def _token(path: str | None) -> str:
    if path is None:
        return ""
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeError) as error:
        raise GoodputError(f"the token in {path} cannot be read: {error}") from error


def _cluster(options: argparse.Namespace) -> Cluster:
    return Cluster(environment_door(options.kubeconfig, options.context), options.namespace)


def _job(options: argparse.Namespace) -> Job:
    return read_job(_cluster(options).job(options.job))


def _show(page: Page) -> None:
    show(page, sys.stdout, os.environ)


def _write(text: str) -> None:
    sys.stdout.write(text)


def _now() -> datetime:
    return datetime.now(UTC)


def _parser() -> argparse.ArgumentParser:
    program = "kubectl goodput"
    parser = argparse.ArgumentParser(
        prog=program,
        description="Where the accelerators' time of TrainingJobs goes, and why.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], None], words: str
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=words, description=words, prog=f"{program} {name}")
        made.set_defaults(run=run)
        return made

    top = command("top", _top, "the jobs that have lost most accelerator time")
    _where(top)
    top.add_argument("-A", "--all-namespaces", action="store_true", help="of all namespaces")

    status = command("status", _status, "how far a job is, how fast, and where its time went")
    _of_job(status)
    shown = status.add_mutually_exclusive_group()
    shown.add_argument("-w", "--watch", action="store_true", help="live, until it has finished")
    shown.add_argument("-o", "--output", choices=("text", "json"), default="text")
    status.add_argument(
        "--steps", type=_steps, metavar="N", help="number of the last step, for the ETA"
    )

    explain = command("explain", _explain, "why a job is not productive now, and what to do")
    _of_job(explain)

    timeline = command("timeline", _timeline, "attempts and interruptions, stage by stage")
    _of_job(timeline)
    timeline.add_argument("-o", "--output", choices=("text", "json", "csv", "html"), default="text")

    report = command("report", _report, "a page on all jobs, from Prometheus")
    report.add_argument("--since", type=_since, default="30d", help="30d (default), 12h, 90m …")
    report.add_argument(
        "--prometheus", type=_url, required=True, metavar="URL", help="http://localhost:9090 …"
    )
    report.add_argument("--prometheus-token-file", metavar="FILE", help="holds a bearer token")
    report.add_argument("-o", "--output", choices=("text", "html"), default="text")
    report.add_argument(
        "--price", type=_price, metavar="AMOUNT", help="of one accelerator for one hour"
    )
    report.add_argument("--currency", default="$", metavar="SIGN", help="of the price")
    return parser


def _where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--namespace", type=_namespace, help="default: that of the context")
    parser.add_argument("--context", help="of the kubeconfig")
    parser.add_argument("--kubeconfig", metavar="FILE")


def _of_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", type=_name, metavar="JOB", help="name of a TrainingJob")
    _where(parser)


def _name(text: str) -> str:
    """Return a job's name; `gtj/name`, as kubectl prints it, is one too."""
    kind, slash, name = text.rpartition("/")
    if slash and kind.partition(".")[0] not in ("gtj", "trainingjob", "trainingjobs"):
        raise argparse.ArgumentTypeError(f"{text!r} is no TrainingJob")
    return _namespace(name)


def _namespace(text: str) -> str:
    """Return a name that can stand in a path of the API server."""
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", text):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be a name in Kubernetes")
    return text


def _steps(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**53):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of steps")
    return int(text)


def _since(text: str) -> timedelta:
    from goodput_operator.cli.report import parse_since

    try:
        return parse_since(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} is no address; say http://host:9090")
    return text


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no price")
    return price


if __name__ == "__main__":
    main()
