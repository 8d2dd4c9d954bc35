"""A command in shares on a Ray cluster: each share is a Ray task, which Ray runs again where a worker or a machine is lost.

The tasks see one output folder, as shares do that are started by hand (`mrm.system.shares`), and the results are the same.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mrm.system.errors import ConfigError, RunError, first_line
from mrm.system.shares import WHOLE, Share

NOTHING: Mapping[str, Any] = {}
COMMANDS = ("predict", "embed", "pack", "prepare")  # those that are done in shares


def run_with_ray(
    command: Callable[..., Any],
    *arguments: Any,
    shares: int,
    retries: int = 3,
    resources: Mapping[str, Any] = NOTHING,
    **named: Any,
) -> Any:
    """Do `command(*arguments, **named)` in so many shares on the Ray cluster that `ray.init` has joined. Returns its result.

    `command` is `mrm.runs.predict`, `embed`, `pack` or `prepare`; `resources` are options of each task (`{"num_gpus": 1}`),
    and `retries` how often Ray starts one anew whose worker has died. All shares end before an error of one is raised, so that
    the same call has only the rest to do. Raises ConfigError where Ray is not installed or the command has no shares, RunError
    where workers die more often, and what the command raises.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise ConfigError("this needs Ray, which is not installed: pip install 'mrm-radiograph[ray]'") from None
    if shares < 1:
        raise ConfigError(f"shares must be at least 1, not {shares}")
    task = ray.remote(max_retries=retries, **resources)(_call)

    def begin(share: Share) -> Any:
        return task.remote(command, *_arguments(command, share, arguments, named))

    results, errors = [], list[Exception]()
    for number, reference in enumerate([begin(Share(number, shares)) for number in range(1, shares + 1)], 1):
        try:
            results.append(ray.get(reference))
        except ray.exceptions.RayTaskError as error:
            errors.append(error.cause)
        except ray.exceptions.RayError as error:
            errors.append(
                RunError(
                    f"share {number}/{shares}: Ray gave it up after {retries} retries ({first_line(error)}); what is done is "
                    "kept, so run it again, with fewer tasks at a time if memory ran out"
                )
            )
    if errors:
        raise errors[0]
    if finished := [result for result in results if getattr(result, "written", result is not None)]:
        return finished[0]
    return ray.get(begin(WHOLE))  # the worker that had put the results together was lost before it could return them


def _call(command: Callable[..., Any], arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    """A task: one share of the command."""
    return command(*arguments, **named)


def _arguments(
    command: Callable[..., Any], share: Share, arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """The arguments of a call of the command, with this share. Raises ConfigError for a command without shares."""
    if command.__name__ not in COMMANDS:
        raise ConfigError(f"{command.__name__} is not done in shares; choose from {', '.join(COMMANDS)}")
    given = inspect.signature(command).bind(*arguments, **named)
    given.apply_defaults()
    if "share" in given.arguments:
        given.arguments["share"] = share
    else:
        given.arguments["reading"] = replace(given.arguments["reading"], share=share)
    return given.args, given.kwargs
