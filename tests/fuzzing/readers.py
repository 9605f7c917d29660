"""What strangers' bytes reach: each reader, as a user's command calls it, and files that it takes.

A reader returns what it made of the bytes or raises a SteerError; anything else is a defect.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from conftest import make_vector
from foreign_files import examples

from steer.base.errors import SteerError
from steer.base.journal import Journal
from steer.contrasts import records
from steer.contrasts.contrast_files import read as read_contrasts
from steer.contrasts.contrasts import ContrastSource
from steer.fitting import activations
from steer.fitting.activations import Recording, open_kept
from steer.formats import reading, writing
from steer.formats.registry import Format, registry
from steer.models import hookmap_cache as cached_maps
from steer.models import torch_files
from steer.models.hookmap import HookMap, HookPoint
from steer.sharing import card, evidence, push
from steer.sharing.address import parse_folder, parse_vector
from steer.steering import named, recipe, spec
from steer.steering.steers import resolve
from steer.vectors import lock, signing, store
from steer.vectors.provenance import Read
from steer.vectors.sites import Site
from steer.vectors.vector import SteeringVector

ROOT = Path(__file__).parents[2]
WRITTEN = ROOT / "tests" / "data" / "foreign"
ROW = np.linspace(-1, 2, 8).astype(np.float32)


@dataclass(frozen=True)
class Target:
    """A reader, and what it takes. The bytes lie in a file of the folder that it is given.

    kind: how the files are built, where their name does not say it.
    """

    read: Callable[[bytes, Path], object]
    seeds: Sequence[bytes]
    kind: str = ""


def chosen(data: bytes, *options: object) -> object:
    """One of them, always the same for the same bytes."""
    return options[zlib.crc32(data) % len(options)]


def put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def vector_file(data: bytes, folder: Path) -> SteeringVector:
    """All that `list`, `show`, `verify` and `push` do with a file."""
    path = put(folder, "calm.safetensors", data)
    store.read_header(path)
    content = store.read(path)
    assert store.to_bytes(content)[8:] and np.isfinite(content.directions).all()
    card.index(
        {content.name: content.metadata},
        "hf://a/b",
        card.card("calm", content.metadata, "hf://a/b"),
    )
    push.prepare_upload(path)
    return content


def foreign(chosen_format: Format) -> Target:
    """`steer convert` of the files of a format to one of ours, and to others' again."""
    of_it = [each for each in examples() if each.format == chosen_format.name]

    def read(data: bytes, folder: Path) -> object:
        # The same bytes always lie in the same place; what is beside them is as it should be.
        example = of_it[zlib.crc32(data) % len(of_it)]
        here = folder / f"{chosen_format.name}-{of_it.index(example)}"
        if not here.exists():
            example.written(here)
        main = example.main
        (here / main).write_bytes(data)
        path = here / example.path if example.path else here
        content = reading.read(path, example.chosen(here), torch_files.read)
        vector = reading.steering_vector(content, None, name="x").sealed()
        again = store.from_bytes(store.to_bytes(vector), "made")
        assert again.sha256 == vector.sha256
        for each in registry():
            if each.writer is None:
                continue
            with suppress(SteerError):
                steer = resolve(spec.parse("x:recommended@all"), vector)
                writing.write(steer, Path(f"x{each.suffixes[0]}"), format=each.name)
        return content

    seeds = [example.files[example.main] for example in of_it]
    suffix = Path(of_it[0].main).suffix if of_it else ""
    return Target(read, seeds, KINDS.get(suffix, ""))


#: How the files of a suffix are built, for mutations that keep to it.
KINDS = {
    ".json": "json",
    ".svec": "json",
    ".safetensors": "safetensors",
    **dict.fromkeys((".npz", ".pt", ".spipe"), "archive"),
}


def recipe_file(data: bytes, folder: Path) -> object:
    """`steer recipe show`, with the vectors that lie here."""
    path = put(folder, "r.toml", data)
    read = recipe.read(path)
    text = recipe.to_toml([recipe.placed(steer, path) for steer in read.steers], read.generation)
    again = put(folder, "again.toml", text.encode())
    assert len(recipe.read(again).steers) == len(read.steers)
    with suppress(SteerError):  # there are no such vectors
        named.resolved(read.steers)
    return read


def spec_text(data: bytes, folder: Path) -> object:
    """Everything that stands behind -v, --when, --watch, and an address."""
    text = data.decode("utf-8", "surrogateescape")
    for parse in (spec.parse_threshold, spec.parse_read, parse_folder, parse_vector):
        with suppress(SteerError):
            parsed = parse(text)
            assert str(parsed)
    typed = spec.parse(text)
    again = spec.parse(str(typed))
    assert again == typed, f"{typed!r} is read back as {again!r}"
    with suppress(SteerError):
        store.find(typed.reference)
    return typed


def includes(data: bytes, folder: Path) -> object:
    """Recipes that include each other, each some of the bytes, as a stranger's folder has them."""
    parts = data.split(SPLIT)
    names = ("a.toml", "b.toml", "sub/c.toml")
    (folder / "sub").mkdir(exist_ok=True)
    if not (folder / "pipe").exists():
        os.mkfifo(folder / "pipe")
    for number, name in enumerate(names):
        put(folder, name, parts[number] if number < len(parts) else b"")
    read = recipe.read(folder / names[0])
    assert len(read.steers) <= 10_000
    with suppress(SteerError):  # there are no such vectors, and nothing is fetched
        named.resolved(read.steers)
    return read


def lock_and_check(data: bytes, folder: Path) -> object:
    """The lock file as every reader of vectors asks it, of a vector that is another one."""
    put(folder, lock.NAME, data)
    origins = [str(origin) for origin in lock.origins(folder).values()]
    path = folder / "calm.safetensors"
    put(folder, path.name + signing.SIGNATURE, base64.b64encode(bytes(64)))
    lock.check(path, b"other", "0" * 64)
    lock.find_pulled(folder, "hf://a/b/calm", None)
    return origins


def signature(data: bytes, folder: Path) -> bytes | None:
    path = folder / "signed.safetensors"
    put(folder, path.name + signing.SIGNATURE, data)
    signature = signing.read_beside(path, follow_links=False)
    assert signature is not None and len(signature) == 64
    assert not signing.is_signed(b"other", signature, KEY)
    return signature


def public_key(data: bytes, folder: Path) -> str:
    return signing.fingerprint(signing.key_text(put(folder, "k.pub", data)))


def journal(data: bytes, folder: Path) -> object:
    """Whatever a run before left, the next one keeps what it does."""
    path = put(folder, "kept.jsonl", data)
    journal = Journal(path)
    journal.put("new", [0.5])
    again = Journal(path)
    # A last line that lacks nothing but its end is whole from now on.
    assert again.get("new") == [0.5] and len(again) in (len(journal), len(journal) + 1)
    if len(journal) == 1:
        raise SteerError("nothing was kept")
    return journal


def cached_map(data: bytes, folder: Path) -> object:
    """A hook map of the cache; what is damaged is made anew."""
    try:
        return cached_maps._decode(data)
    except ValueError as error:
        raise SteerError(str(error) or "damaged") from None


def measured(data: bytes, folder: Path) -> object:
    return evidence.read(put(folder, "eval.json", data))


def contrast_file(data: bytes, folder: Path) -> object:
    name = str(chosen(data, "c.jsonl", "c.json", "c.csv", "c.txt"))
    contrasts = read_contrasts(ContrastSource(file=name), lambda name: records.records(data, name))
    assert len(contrasts.sha256) == 64
    return contrasts


def kept(data: bytes, folder: Path) -> object:
    with open_kept(put(folder, "acts.safetensors", data)) as kept:
        return kept.side(0, 0)


def _files(pattern: str, folder: Path = WRITTEN) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob(pattern))]


def _activations(folder: Path) -> bytes:
    metadata = make_vector().metadata
    identity = metadata.model
    recording = Recording(
        model=identity,
        contrast=metadata.contrast,
        reads=(Read(positions="mean"),),
        sites=(Site(0), Site(1)),
        n_positive=2,
        n_negative=2,
        paired=True,
    )
    with activations.resume(folder / "a", recording) as file:
        shape = (4, 2, identity.d_model)
        file.put(range(4), np.ones(shape, np.float32), np.ones(shape[:2], np.float32))
    return (folder / "a").read_bytes()


def _measured() -> bytes:
    value = {"value": 0.5, "low": 0.25, "high": 0.75}
    rows = [
        {"vector": None, "label": "unsteered", "kl": None, "preference": value},
        {"vector": "calm", "label": "calm", "kl": value, "preference": value},
    ]
    evidence_fields = {"vectors": {"calm": "ab"}, "rows": rows, "command": "steer eval -v calm"}
    return json.dumps(evidence_fields).encode()


def _lock() -> bytes:
    origins = {"calm": lock.Origin(url="hf://a/b/calm", sha256="ab", revision="cd")}
    return msgspec.json.encode({"format": 1, "vectors": origins})


def _signed_lock() -> bytes:
    text, key = (base64.b64encode(bytes(size)).decode() for size in (64, 32))
    calm = lock.Origin(url="hf://a/b/calm", sha256="ab", signature=text, signer=key)
    return msgspec.json.encode({"format": 1, "vectors": {"calm": calm}})


def _map() -> bytes:
    places = {Site(layer): HookPoint(f"model.layers.{layer}", "output") for layer in range(2)}
    return cached_maps._encode(HookMap("Tiny", 2, 8, places, "model.embed", None, "head"))


def _low_rank() -> SteeringVector:
    vector = make_vector()
    ones = np.ones((2, 1, 8), np.float32)
    metadata = msgspec.structs.replace(vector.metadata, rank=1)
    return SteeringVector(metadata, vector.directions, ones, ones.swapaxes(1, 2)).sealed()


SPECS = [
    "joyful", "joyful:1.5@14", "joyful:15%@10-20", "./a b/c.safetensors:2,norm=keep",
    "refusal:ablate=writes@5/response", "mood:clamp=pos@all", "x:2@8/not-4-9/skip-special/decay=20",
    "joyful:2/ramp=3", "x:rotate=20@1,3-5/on=0-3,8-", "troll@3<mid", "refusal>auto/last",
    "hf://team/vectors@v1/joyful:2", "s3://bucket/a/b:1@2", "sftp://ada:secret@host:22/x/y",
]  # fmt: skip
RECIPES = [
    'steers = ["formal:1.5@2", { vector = "./calm.safetensors:-1", sha256 = "' + "0" * 64 + '" }]',
    'include = ["again.toml"]\nwhen = "sea>0.2"\nsteers = ["joyful"]\n[generation]\nbeams = 2',
    "[generation]\ntemperature = 0.5\nstop = ['a']\nsystem = \"x\"\nmax_tokens = 3\n",
]


#: Between the recipes of one input.
SPLIT = b"\n# ----\n"
INCLUDES = [
    'include = ["b.toml", "sub/c.toml"]\nsteers = ["a:1@1"]\n# ----\nsteers = ["./x:2"]\n# ----\n'
    'include = ["../b.toml"]\nsteers = ["joyful"]\nwhen = "sea>0.2"\n',
    'include = ["/dev/zero"]\n',
    'include = ["pipe"]\n',
    'include = ["b.toml", "b.toml"]\n# ----\nsteers = ["s3://a/b/c:1"]\n[generation]\nseed = 3\n',
]
PUBLIC_KEY = (
    b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
    b"-----END PUBLIC KEY-----\n"
)


#: Its 32 bytes.
KEY = base64.b64encode(base64.b64decode(PUBLIC_KEY.splitlines()[1])[-32:]).decode()


def targets(folder: Path) -> dict[str, Target]:
    """All of them. folder: for what is made on the way."""
    vectors = [store.to_bytes(vector) for vector in (make_vector().sealed(), _low_rank())]
    contrast_files = _files("*.jsonl", ROOT / "examples/contrasts")
    contrasts = [b"\n".join(file.splitlines()[:2]) for file in contrast_files]
    contrasts += [b'positive,negative\n"a b",c\nd,e\n', b'["a", "b"]', b'{"text": "a", "label": 1}']
    return {
        "vector": Target(vector_file, vectors + _files("*.safetensors", ROOT / "vectors")),
        **{each.name: foreign(each) for each in registry() if each.read is not None},
        "recipe": Target(recipe_file, [text.encode() for text in RECIPES]),
        "spec": Target(spec_text, [text.encode() for text in SPECS]),
        "includes": Target(includes, [text.encode() for text in INCLUDES]),
        "lock": Target(lock_and_check, [_lock(), _signed_lock()]),
        "signature": Target(signature, [base64.b64encode(bytes(64)) + b"\n"]),
        "key": Target(public_key, [PUBLIC_KEY]),
        "journal": Target(journal, [b'["a", 1]\n["b", {"c": [0.5, null]}]\n', b'["a", 1]\n["b"']),
        "map": Target(cached_map, [_map()]),
        "evidence": Target(measured, [_measured()]),
        "contrasts": Target(contrast_file, contrasts),
        "activations": Target(kept, [_activations(folder)]),
    }
