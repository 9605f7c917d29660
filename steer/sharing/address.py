"""Addresses of folders of vectors, and of one vector in them.

    hf://OWNER/REPO[@REVISION][/FOLDERS][/NAME[@REVISION]]    a model repository of the hub
    PROTOCOL://HOST/FOLDERS[/NAME]                            whatever fsspec reaches
    FOLDERS[/NAME]                                            a folder on this machine

A name may end in `.safetensors`. In `-v`, `NAME@...` gives layers, so a revision goes after the
repository there, as in huggingface_hub: `hf://OWNER/REPO@REVISION/NAME`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from steer.base.errors import UsageError
from steer.base.files import at_home, safe_name, shown
from steer.base.urls import is_url, public

SUFFIX = ".safetensors"
HUB = "hf"
LOCAL = "file"
_PROTOCOL = re.compile(r"[a-z][a-z0-9+.-]*")
_HUB = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/(?:pr|convert)/[\w.-]+|[\w.-]+))?"
    r"(?:/(?P<path>[^@]*))?",
    re.ASCII,
)
_REVISION = re.compile(r"(?:refs/(?:pr|convert)/)?[\w.-]+", re.ASCII)
#: The first part of addresses of other kinds of repositories.
_OTHER_KINDS = ("datasets", "spaces", "buckets", "models", "kernels")
_FORM = "write hf://OWNER/REPO/NAME, s3://BUCKET/FOLDER/NAME, or a path"


@dataclass(frozen=True, slots=True)
class Address:
    """A folder of vectors, or a vector in it, which has a `name`.

    root: OWNER/REPO on the hub; `PROTOCOL://HOST/` elsewhere; empty for a folder on this machine.
    revision: a branch, tag or commit of the hub.
    """

    protocol: str
    root: str
    folder: str
    name: str | None = None
    revision: str | None = None

    @property
    def place(self) -> str:
        """The folder as an address, passwords included."""
        if self.protocol == HUB:
            at = f"@{self.revision}" if self.revision else ""
            return f"hf://{self.root}{at}" + (f"/{self.folder}" if self.folder else "")
        return self.root + self.folder

    def __str__(self) -> str:
        """The address without passwords and signatures, safe to show and to store."""
        place = public(self.place)
        return place if self.name is None else f"{place.rstrip('/')}/{self.name}"


#: `hf:me/vectors`, the way data sets of the hub are written. One letter and a colon is a drive.
_SLIP = re.compile(r"(?P<protocol>[a-z][a-z0-9+]+):")


def parse_folder(text: str) -> Address:
    """The address of a folder of vectors.

    Raises:
        UsageError: the text is not an address.
    """
    if not text or "\0" in text or "::" in text or shown(text) != text:
        raise UsageError(f"{text!r} is not a place", hint=_FORM)
    if not is_url(text):
        slip = _SLIP.match(text)
        if slip:
            raise UsageError(
                f"{text!r} is no address: the slashes are missing",
                hint=f"write {slip['protocol']}://..., or ./{text} for a folder of that name",
            )
        return Address(LOCAL, "", str(at_home(text)))
    protocol, _, rest = text.partition("://")
    if not _PROTOCOL.fullmatch(protocol) or not rest:
        raise UsageError(f"{public(text)!r} is not a place", hint=_FORM)
    if protocol == HUB:
        return _hub(text, rest)
    if protocol in (LOCAL, "local"):
        return Address(LOCAL, "", rest)
    root, slash, folder = rest.partition("/")
    return Address(protocol, f"{protocol}://{root}{slash}", folder.rstrip("/"))


def parse_vector(text: str) -> Address:
    """The address of a vector.

    Raises:
        UsageError: the text is not an address, or its name could leave the folder.
    """
    tail = text.rpartition("/")[2]
    name, at, revision = tail.partition("@")
    if not text.startswith(f"{HUB}://"):
        name, at = tail, ""
    if at and not _REVISION.fullmatch(revision):
        raise UsageError(f"{text!r}: {revision!r} is not a revision")
    place = text[: len(text) - len(tail)]
    if place.endswith("://"):
        raise UsageError(f"{text!r} names no vector", hint=_FORM)
    try:
        folder = parse_folder(place.rstrip("/") or place or ".")
    except UsageError:
        parse_folder(text)  # raises unless only the name is missing
        raise UsageError(f"{public(text)!r} names no vector", hint=_FORM) from None
    if at and folder.revision:
        raise UsageError(f"{text!r} names two revisions", hint="leave one out")
    name = name.removesuffix(SUFFIX)
    if not safe_name(name):
        raise UsageError(f"{public(text)!r} names no vector", hint=_FORM)
    return replace(folder, name=name, revision=revision if at else folder.revision)


def _hub(text: str, rest: str) -> Address:
    match = _HUB.fullmatch(rest.rstrip("/"))
    if match is None or match["repo"].split("/")[0] in _OTHER_KINDS:
        raise UsageError(f"{text!r} is not a place on the hub", hint="write hf://OWNER/REPO/NAME")
    folder = match["path"] or ""
    if any(part in ("", ".", "..") for part in folder.split("/")) and folder:
        raise UsageError(f"{text!r}: {folder!r} is not a folder of a repository")
    return Address(HUB, match["repo"], folder, revision=match["revision"])
