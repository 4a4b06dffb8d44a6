"""The flags say what they mean, and nonsense is refused before anything starts."""

import pytest

from goodput_operator.controller.settings import Settings, bracketed, parse
from goodput_operator.metrics import JobLabels

IMAGE = ["--agent-image=registry.example.com/goodput:1"]


def read(*arguments: str, **environment: str) -> Settings:
    return parse([*IMAGE, *arguments], environment)


def test_inside_a_pod_the_environment_says_who_we_are() -> None:
    settings = read(
        POD_NAMESPACE="ops", POD_NAME="op-1", POD_IP="10.0.0.7", POD_SERVICE_ACCOUNT="robot"
    )
    assert settings.namespace == "ops"
    assert settings.service_account == "robot"
    assert settings.agent_address == "10.0.0.7:8443"
    assert settings.kubeconfig is None


def test_an_ipv6_address_is_written_as_in_a_url() -> None:
    assert read(POD_IP="fd00::7").agent_address == "[fd00::7]:8443"
    assert bracketed("10.0.0.7") == "10.0.0.7"


def test_a_restarted_process_is_somebody_else() -> None:
    settings = read(POD_NAME="op-1")
    first, second = settings.identity(), settings.identity()
    assert first != second
    assert first.startswith("op-1_")


def test_namespaces_may_be_given_one_after_the_other() -> None:
    settings = read("--watch-namespace=b", "--watch-namespace=a", "--watch-namespace=b")
    assert settings.watch_namespaces == ("a", "b")
    assert read().watch_namespaces == ()


def test_by_default_every_address_is_bound() -> None:
    assert read().host is None
    assert read("--bind-address=127.0.0.1").host == "127.0.0.1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param([], "--agent-image", id="no image for the agent"),
        pytest.param([*IMAGE, "--agent-port=70000"], "no port", id="a port that does not exist"),
        pytest.param(
            [*IMAGE, "--lease-renew-seconds=5"], "three times", id="a lease that ends too soon"
        ),
        pytest.param(
            [*IMAGE, "--agent-image-pull-policy=Maybe"], "invalid choice", id="an unknown policy"
        ),
        pytest.param([*IMAGE, "--workers=0"], "at least 1", id="nobody to do the work"),
        pytest.param([*IMAGE, "--lease"], "unrecognized", id="an abbreviation"),
    ],
)
def test_nonsense_is_refused_with_the_flags_name(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        parse(arguments, {})
    assert refusal.value.code == 2
    assert words in capsys.readouterr().err


def test_the_labels_of_queue_and_team_can_be_chosen() -> None:
    assert read().job_labels == JobLabels("kueue.x-k8s.io/queue-name", "team")
    chosen = read("--queue-label=example.com/queue", "--team-label=").job_labels
    assert chosen == JobLabels("example.com/queue", "")
