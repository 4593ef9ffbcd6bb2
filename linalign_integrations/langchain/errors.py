"""This package's errors as LangChain knows them, so that code for either catches them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from langchain_core.exceptions import (
    ContextOverflowError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelRateLimitError,
    ModelTimeoutError,
)

from linalign_integrations import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

_MEANT: dict[type[errors.LinAlignError], type[Exception]] = {
    errors.PromptTooLong: ContextOverflowError,
    errors.GenerationTimeout: ModelTimeoutError,
    errors.ModelNotFound: ModelNotFoundError,
    errors.QueueFull: ModelRateLimitError,
    **dict.fromkeys(
        (
            errors.InvalidArgument,
            errors.InvalidGrammar,
            errors.InvalidMessages,
            errors.InvalidPreferences,
            errors.InvalidSampling,
            errors.InvalidTools,
            errors.RequestTooLarge,
        ),
        ModelInvalidRequestError,
    ),
}
_BOTH = {
    own: type(own.__name__, (own, theirs), {"__doc__": own.__doc__, "__module__": __name__})
    for own, theirs in _MEANT.items()
}


@contextmanager
def langchain_errors() -> Iterator[None]:
    """Raises this package's errors as ones that are also LangChain's, where it has such an error.

    LangChain's middleware goes by those: it summarises after ``ContextOverflowError`` and tries
    again after a timeout.
    """
    try:
        yield
    except errors.LinAlignError as error:
        if (both := _BOTH.get(type(error))) is None:
            raise
        made = both.__new__(both, *error.args)
        made.__dict__.update(error.__dict__)
        raise made from error
