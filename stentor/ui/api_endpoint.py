"""From settings classes to a named Gradio endpoint: parameters, schema, checks and errors.

    add_endpoint(handler, Call, SamplingSettings)

adds /<name of the handler> with one parameter for each field of the classes; the handler receives
the request and one checked object of each class. An option is written down in its class alone.
Knows no handler.
"""

import dataclasses
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Literal, get_type_hints

import gradio as gr
from gradio.events import api as add_api
from starlette.requests import Request
from starlette.responses import JSONResponse

from stentor.errors import StentorError
from stentor.knobs import Knob, from_json, knobs

Handler = Callable[..., Any]
# Where Gradio takes named parameters.
NAMED_CALL = "/call/v2/"


def add_endpoint(handler: Handler, *classes: type) -> None:
    """Create the endpoint in the present gr.Blocks.

    `handler`: an async function, or an async generator function whose every value is an update. A
    StentorError that it raises is what the client reads.
    """
    parameters = _parameters(classes)
    add_api(
        _typed(handler, parameters, classes),
        api_name=handler.__name__,
        api_description=_description(handler, classes),
        # Through the queue: without it Gradio answers HTTP 500 without the message. No limit: the
        # engines decide who waits.
        queue=True,
        concurrency_limit=None,
    )


def _parameters(classes: tuple[type, ...]) -> list[inspect.Parameter]:
    """Return one parameter for each field, those without a default first."""
    parameters = []
    for kind in classes:
        types, options = get_type_hints(kind), knobs(kind)
        for field in dataclasses.fields(kind):
            has_default = field.default is not dataclasses.MISSING
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.POSITIONAL_OR_KEYWORD,
                    default=field.default if has_default else inspect.Parameter.empty,
                    annotation=_annotation(types[field.name], options.get(field.name)),
                )
            )
    return sorted(parameters, key=lambda parameter: parameter.default is not parameter.empty)


def _annotation(hint: Any, option: Knob | None) -> Any:  # noqa: ANN401 - any annotation
    return Literal[option.choices] if option and option.choices else hint


def _typed(
    handler: Handler, parameters: list[inspect.Parameter], classes: tuple[type, ...]
) -> Handler:
    """Return the handler with the signature from which Gradio makes the schema."""

    def checked(values: tuple[Any, ...]) -> list[Any]:
        given = {known.name: value for known, value in zip(parameters, values, strict=True)}
        return [
            from_json(kind, {field.name: given[field.name] for field in dataclasses.fields(kind)})
            for kind in classes
        ]

    async def stream(request: gr.Request, *values: Any) -> AsyncIterator[Any]:  # noqa: ANN401
        with _told():
            async with aclosing(handler(request, *checked(values))) as updates:
                async for update in updates:
                    yield update

    async def call(request: gr.Request, *values: Any) -> Any:  # noqa: ANN401
        with _told():
            return await handler(request, *checked(values))

    is_stream = inspect.isasyncgenfunction(handler)
    result = inspect.signature(handler).return_annotation
    result = result.__args__[0] if is_stream else result
    function: Any = stream if is_stream else call
    request = inspect.Parameter(
        "request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request
    )
    function.__signature__ = inspect.Signature([request, *parameters], return_annotation=result)
    hints = {known.name: known.annotation for known in (request, *parameters)}
    function.__annotations__ = {**hints, "return": result}
    return function  # type: ignore[no-any-return]


@contextmanager
def _told() -> Iterator[None]:
    """Let a StentorError reach the client, as plain text: it is read from JSON, not drawn."""
    try:
        yield
    except StentorError as error:
        raise gr.Error(str(error), title="That did not work", print_exception=False) from error


def _description(handler: Handler, classes: tuple[type, ...]) -> str:
    """Return what the handler does, then every option with its help and range."""
    lines = [inspect.getdoc(handler) or ""]
    for kind in classes:
        for name, option in knobs(kind).items():
            limits = ""
            if option.low is not None and option.high is not None:
                limits = f" ({option.low:.10g} to {option.high:.10g})"
            lines.append(f"{name}: {option.help}{limits}.")
    return "\n".join(lines)


async def refuse_names(request: Request, error: Exception) -> JSONResponse:
    """Answer a call whose parameters have the wrong names, or one of an unknown endpoint.

    For `exception_handlers` of the web server. Gradio raises there, which would be a bare HTTP 500.
    """
    if NAMED_CALL not in request.url.path:
        raise error
    if isinstance(error, KeyError):
        return JSONResponse({"error": f"No endpoint is called {error}."}, status_code=404)
    # Gradio's second sentence points to a footer that the page does not have.
    return JSONResponse({"error": str(error).partition(" Please")[0]}, status_code=400)
