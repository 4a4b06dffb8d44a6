"""What the operator wrote into the environment of the trainer's container. Pure."""

from dataclasses import dataclass
from typing import Mapping

from goodput import protocol

COMMAND = "Command"
"""The user's command runs once per pod and starts the ranks itself (torchrun, a script)."""
PROCESSES = "Processes"
"""The agent starts the user's command once per rank."""

DEFAULT_TERMINATION_GRACE_SECONDS = 25.0


class SettingsError(ValueError):
    """The container's environment is not what the operator writes; a retry cannot help."""


@dataclass(frozen=True)
class Settings:
    """Who this agent is and what it serves.

    Attributes:
        address: the pod's IP.
        launcher: `COMMAND` or `PROCESSES`.
        operator_url: `https://host[:port]`.
        checkpoint_directory: empty when the job names none.
        termination_grace_seconds: between SIGTERM and SIGKILL when the pod is deleted.
    """

    slot: int
    incarnation: int
    address: str
    launcher: str
    operator_url: str
    checkpoint_directory: str = ""
    termination_grace_seconds: float = DEFAULT_TERMINATION_GRACE_SECONDS

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the settings.

        Raises:
            SettingsError: a name is missing or its value cannot be understood.
        """
        launcher = environ.get(protocol.ENV_LAUNCHER, COMMAND)
        if launcher not in (COMMAND, PROCESSES):
            raise SettingsError("{}={!r} is unknown".format(protocol.ENV_LAUNCHER, launcher))
        return cls(
            slot=_integer(environ, protocol.ENV_SLOT),
            incarnation=_integer(environ, protocol.ENV_INCARNATION),
            address=environ.get(protocol.ENV_POD_IP, ""),
            launcher=launcher,
            operator_url=_text(environ, protocol.ENV_OPERATOR_URL),
            checkpoint_directory=environ.get(protocol.ENV_CHECKPOINT_DIR, ""),
            termination_grace_seconds=_seconds(
                environ, protocol.ENV_TERMINATION_GRACE, DEFAULT_TERMINATION_GRACE_SECONDS
            ),
        )


def _text(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    if not value:
        raise SettingsError("{} is not set".format(name))
    return value


def _integer(environ: Mapping[str, str], name: str) -> int:
    text = _text(environ, name)
    try:
        return int(text)
    except ValueError as error:
        raise SettingsError("{}={!r} is not a number".format(name, text)) from error


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name, "")
    try:
        return max(0.0, float(text)) if text else default
    except ValueError as error:
        raise SettingsError("{}={!r} is not a number".format(name, text)) from error
