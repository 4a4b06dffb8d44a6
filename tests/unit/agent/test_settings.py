"""What the operator wrote on the container."""

import pytest

from goodput.agent.settings import PROCESSES, Settings, SettingsError

ENVIRON = {
    "GOODPUT_SLOT": "3",
    "GOODPUT_INCARNATION": "2",
    "GOODPUT_POD_IP": "10.0.0.9",
    "GOODPUT_LAUNCHER": "Processes",
    "GOODPUT_OPERATOR_URL": "https://operator.goodput:8443",
    "GOODPUT_CHECKPOINT_DIR": "/checkpoints",
    "GOODPUT_TERMINATION_GRACE_SECONDS": "110",
}


def test_the_settings_are_what_the_environment_says() -> None:
    assert Settings.from_environ(ENVIRON) == Settings(
        slot=3,
        incarnation=2,
        address="10.0.0.9",
        launcher=PROCESSES,
        operator_url="https://operator.goodput:8443",
        checkpoint_directory="/checkpoints",
        termination_grace_seconds=110,
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        pytest.param("GOODPUT_SLOT", "", "GOODPUT_SLOT is not set", id="missing"),
        pytest.param("GOODPUT_SLOT", "x", "GOODPUT_SLOT='x' is not a number", id="no number"),
        pytest.param("GOODPUT_LAUNCHER", "Magic", "GOODPUT_LAUNCHER='Magic' is unknown", id="word"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings.from_environ({**ENVIRON, name: value})
