"""What the API's models share: camelCase names, immutability, times, rules of admission."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue, PlainSerializer
from pydantic.alias_generators import to_camel


class ApiModel(BaseModel):
    """A part of the TrainingJob: frozen, camelCase outside, unknown fields ignored.

    The docstring under a field is its description in the CRD, so it speaks to users.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )


def format_time(value: datetime) -> str:
    """Return RFC 3339 in UTC with milliseconds."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


def _within_reach(value: datetime) -> datetime:
    """Refuse a time with which nobody could reckon: status can be edited by hand."""
    if value.tzinfo is None:
        raise ValueError("a time needs its zone")
    if not EARLIEST <= value <= LATEST:
        raise ValueError(f"a time between {EARLIEST.year} and {LATEST.year} is wanted")
    return value


Time = Annotated[
    datetime,
    AfterValidator(_within_reach),
    PlainSerializer(format_time, return_type=str, when_used="json"),
]
"""A point in time, kept to the millisecond."""


def truncate(moment: datetime) -> datetime:
    """Return `moment` as it will be after a trip through the API: whole milliseconds."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


Rule = dict[str, JsonValue]
Reason = Literal["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired"]


def rule(
    expression: str,
    message: str,
    *,
    reason: Reason = "FieldValueInvalid",
    field: str = "",
) -> Rule:
    """Return a CEL rule by which the API server itself refuses an object.

    Args:
        expression: true when the object is well; `self` is the value that carries the rule, and
            a rule with `oldSelf` is only asked about changes.
        message: names the field and the remedy.
        reason: the kind of refusal.
        field: the path of the blamed field below `self`, such as `.workers`.
    """
    made: Rule = {"rule": expression, "message": message, "reason": reason}
    return {**made, "fieldPath": field} if field else made


def rules(*all_of: Rule) -> dict[str, JsonValue]:
    """Return what a model or a field gives pydantic as `json_schema_extra` to carry rules."""
    return {"x-kubernetes-validations": list(all_of)}


def list_set() -> dict[str, JsonValue]:
    """Return the `json_schema_extra` of a list in which nothing stands twice."""
    return {"x-kubernetes-list-type": "set"}


def list_map(*keys: str) -> dict[str, JsonValue]:
    """Return the `json_schema_extra` of a list whose items are merged by these keys."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}
