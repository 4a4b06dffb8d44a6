"""The page about the ledger speaks of every bucket, and maps them as the code does."""

from pathlib import Path

import pytest

from goodput_operator.api.status import Bucket
from goodput_operator.ledger.derived import BADPUT

PAGE = (Path(__file__).parents[3] / "docs" / "ledger.md").read_text()


def rows(heading: str) -> list[str]:
    _, _, rest = PAGE.partition(f"{heading}\n")
    return [line for line in rest.partition("\n#")[0].splitlines() if line.startswith("|")]


@pytest.mark.parametrize("bucket", Bucket)
def test_the_page_says_what_each_bucket_means(bucket: Bucket) -> None:
    assert len([row for row in rows("## The buckets") if row.startswith(f"| `{bucket}` |")]) == 1


@pytest.mark.parametrize("bucket", BADPUT)
def test_the_page_maps_each_bucket_as_the_code_does(bucket: Bucket) -> None:
    [row] = [one for one in rows("### Google's badput types") if f"`{bucket}`" in one.split("|")[1]]
    assert f"`{BADPUT[bucket]}`" in row.split("|")[2]
