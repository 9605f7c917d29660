"""Everything that a user can cause and that `steer` reports without a traceback.

SteerError            exit 1: the work could not be done
+-- UsageError        exit 2: an invalid command line
+-- InputError        contrasts, prompts or texts that cannot be read or used
+-- IdleError         a steer that acts nowhere
+-- VectorError       a vector, or a file that should hold one
+-- GuardError        exit 3: a guard with `on_trip` error tripped
+-- ModelError        a model that cannot be loaded, or is not the one a vector was made for
    +-- SiteError     a layer or site that the model does not have
    +-- HookError     a hook that did not fire: the output would be silently unsteered

The message gives a subject and a fact; the hint gives the next step, if there is one.
"""

from __future__ import annotations

from steer.base.wording import is_for_commands, worded


class SteerError(Exception):
    """A failure with a message for the user and, if possible, a hint about the next step. Both name
    options in the form for the command line or for Python (`steer.base.wording`)."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self._hint = hint
        if hint is not None and not is_for_commands():
            self.__notes__ = [f"hint: {worded(hint)}"]  # tracebacks show them, from Python 3.11 on

    def __str__(self) -> str:
        return worded(super().__str__())

    @property
    def hint(self) -> str | None:
        """What to do next."""
        return None if self._hint is None else worded(self._hint)


class UsageError(SteerError):
    """An option, an argument or a spec that is invalid."""

    exit_code = 2


class InputError(SteerError):
    """Contrasts, prompts or texts that cannot be read or used."""


class IdleError(SteerError):
    """A steer that changes nothing: the output would be silently unsteered."""


class VectorError(SteerError):
    """A vector that is damaged, missing or unsuitable."""


class GuardError(SteerError):
    """A token passed the threshold of a guard whose `on_trip` is `error`. The exit code of a
    command is then 3."""

    exit_code = 3


class ModelError(SteerError):
    """A model that cannot be loaded or does not fit."""


class SiteError(ModelError):
    """A layer or site that this model does not have."""


class HookError(ModelError):
    """A hook that could not be placed or did not run, or a server that does not steer."""
