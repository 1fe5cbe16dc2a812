"""Text of Hugging Face datasets, streamed: the only part of the training that needs a network."""

from collections.abc import Iterator

import datasets
import httpx2
import pyarrow

from stentor.errors import DataError
from training.settings import Source

# What a lost connection, a refusal by the Hub or a damaged file raise on their way through
# huggingface_hub, fsspec, pyarrow and datasets.
READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    httpx2.HTTPError,
    pyarrow.ArrowException,
    datasets.exceptions.DatasetsError,
)


def read_hub(source: Source, skip: int = 0) -> Iterator[str]:
    """Yield the text of every row after the first `skip`, in the order of the dataset.

    Raises:
        DataError: no such dataset, revision or column, or the connection was lost for good; names
            the row that was to be read.
    """
    row_number = skip
    try:
        rows = datasets.load_dataset(
            source.name, source.subset, split="train", streaming=True, revision=source.revision
        )
        for row in rows.skip(skip) if skip else rows:
            row_number += 1
            if source.column not in row:
                raise DataError(
                    f"{source.describe()}, row {row_number}: no column {source.column!r}; "
                    f"it has: {', '.join(row)}."
                )
            place = f"{source.describe()}, row {row_number}"
            yield text_of(row[source.column], place, source.column)
    except READ_ERRORS as error:
        reason = f"{type(error).__name__}: {error}"
        if row_number == 0:
            raise DataError(
                f"The dataset {source.describe()} cannot be read ({reason}). It needs the network; "
                "give local files with --text instead."
            ) from error
        raise DataError(
            f"The dataset {source.describe()} broke off at row {row_number + 1} ({reason}). "
            "Finished shards are kept; resume the run when the network is back."
        ) from error


def text_of(value: object, place: str, column: str) -> str:
    """Return a column's text; an empty cell is empty text, a number is refused."""
    if not isinstance(value, str | None):
        raise DataError(f"{place}: {column!r} holds {type(value).__name__}, not text.")
    return value or ""
