"""Vector files and recipes: find, check, sign, share, compare and combine them. No torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from steer.base.errors import InputError, SteerError, UsageError, VectorError
from steer.base.shipped import SHIPPED
from steer.base.urls import is_url
from steer.library.vectors import Vector, as_vector, frame, html_table
from steer.sharing import evidence as measured
from steer.sharing import fetch
from steer.sharing import push as pushing
from steer.sharing.address import parse_folder, parse_vector
from steer.sharing.opening import open_place
from steer.sharing.places import listing
from steer.sharing.pull import fetch_signature
from steer.sharing.pull import pull as run_pull
from steer.sharing.push import PushResult, prepare_upload
from steer.steering import algebra, recipe, spec
from steer.steering.algebra import Similarity
from steer.steering.collapse import collapse
from steer.steering.named import resolved
from steer.steering.operation import ADD, Coefficient
from steer.steering.recipe import Recipe
from steer.steering.scope import CONSTANT, EVERYWHERE
from steer.steering.steers import Steer, check_fits
from steer.vectors import lock, signing, store
from steer.vectors.metadata import Metadata, to_json
from steer.vectors.provenance import CombineOp
from steer.vectors.vector import SteeringVector

if TYPE_CHECKING:
    from steer.library.models import Model

Reference = str | PathLike[str]


class FileWarning(UserWarning):
    """A file in a folder of vectors that cannot be read as one."""


def _warn(text: str) -> None:
    warnings.warn(text, FileWarning, stacklevel=3)


@dataclass(frozen=True, slots=True)
class VectorFile:
    """A vector file in a folder or at an address, of which only the header was read."""

    path: str
    name: str
    metadata: Metadata

    def to_dict(self) -> dict[str, Any]:
        """The path and the metadata as plain values."""
        return {"path": self.path} | to_json(self.metadata)


def list_vectors(*places: Reference, warn: Callable[[str], None] = _warn) -> list[VectorFile]:
    """The vector files of folders or addresses, by name; only their headers are read.

    places: by default those in which names are looked up: `./vectors`, the folders of
    `$STEER_VECTORS`, and the vectors of pocket that steer brings along. warn: gets a line for each
    file that is no vector.

    Raises:
        SteerError: a folder or place that does not exist, or does not answer.
    """
    if places:
        return [file for place in places for file in _listed(str(place), warn)]
    own = [folder for folder in store.folders() if folder.is_dir()]
    files = [file for folder in own for file in _listed(str(folder), warn)]
    names = {file.name for file in files}
    shipped = _listed(str(SHIPPED), warn)
    return [*files, *(file for file in shipped if file.name not in names)]


def _listed(place: str, warn: Callable[[str], None]) -> Iterable[VectorFile]:
    if is_url(place):
        address = parse_folder(place)
        opened = open_place(address)
        _ = opened.revision  # a repository that does not exist is an error, not an empty list
        for entry in listing(opened):
            if entry.metadata is None:
                warn(entry.error)
            else:
                yield VectorFile(f"{address}/{entry.name}", entry.name, entry.metadata)
        return
    for path in store.files(Path(place)):
        try:
            yield VectorFile(str(path), path.stem, store.read_header(path).metadata)
        except SteerError as error:
            warn(str(error))


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """A vector file that is whole. origin: the address that it was pulled from, where it was;
    signed_by: the fingerprint of the key that signed it, where a key was given."""

    path: Path
    vector: Vector
    origin: str | None
    signed_by: str | None

    def fits(self, model: Model) -> list[str]:
        """Warnings about the vector on a model; none where it was made on just this model.

        Raises:
            ModelError, SiteError: it does not fit.
        """
        return check_fits(self.vector.data, model.inner.identity)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the keys of `steer verify --json`."""
        return {
            "path": str(self.path),
            "sha256": self.vector.data.sha256,
            "origin": self.origin,
            "signed_by": self.signed_by,
        }


def verify(
    reference: Reference, *, model: Model | None = None, public_key: Reference | None = None
) -> VerifiedFile:
    """Check that a vector file is whole, is the one that was pulled, and fits a model.

    public_key: a PEM file; the vector must be signed with its private key.

    Raises:
        VectorError: the file is damaged, or another vector than `steer.lock` says.
        ModelError, SiteError: it does not fit the model.
        SteerError: the signature is missing or wrong.
    """
    path = fetch.find(str(reference))
    vector, data = store.read_with_bytes(path)
    digest = vector.metadata.sha256
    origin = lock.origins(path.parent).get(path.stem)
    if origin is not None and origin.sha256 != digest:
        raise VectorError(
            f"{path} is whole, but not the vector that was pulled from {origin}: its sha256 is"
            f" {digest[:12]}..., not {origin.sha256[:12]}...",
            hint=f"pull it again with --force, or take its entry out of {path.parent / lock.NAME}",
        )
    signed_by = None
    if public_key is not None:
        signed_by = signing.fingerprint(_signer(str(reference), path, data, Path(public_key)))
    verified = VerifiedFile(
        path, Vector(vector), None if origin is None else str(origin), signed_by
    )
    if model is not None:
        verified.fits(model)
    return verified


def _signer(reference: str, path: Path, data: bytes, public_key: Path) -> str:
    """The key that has signed a vector: of an address, by the signature that lies there too.

    Raises:
        SteerError: it is not signed, or by another key.
    """
    if not is_url(reference):
        return signing.check(path, data, public_key)
    address = parse_vector(reference)
    key, signature = signing.key_text(public_key), fetch_signature(address)
    if signature is None:
        raise SteerError(f"{address} is not signed: there is no signature beside it")
    signing.check_bytes(data, signature, key, subject=str(address), public_key=public_key)
    return key


def new_key(path: Reference) -> Path:
    """Write a new private key that only its owner can read, and its public key beside it.

    Returns the public key's path: `k.pem` has `k.pub`.

    Raises:
        SteerError: one of the two files exists, or `cryptography` is not installed.
    """
    return signing.make_keys(Path(path))


def sign(reference: Reference, key: Reference) -> Path:
    """Sign a vector file with a private key (Ed25519, PEM); the signature's path.

    Raises:
        VectorError: the file is missing or damaged.
        SteerError: the key cannot be used, or `cryptography` is not installed.
    """
    path = store.find(str(reference))
    store.check_own(path)
    return signing.sign(path, store.read_with_bytes(path)[1], Path(key))


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of vectors. likenesses: cosines of each pair, by index; obstacles: the reasons
    why the vectors cannot be combined, empty if they can."""

    names: tuple[str, ...]
    vectors: tuple[Vector, ...]
    likenesses: tuple[Similarity, ...]
    shared_layers: tuple[int, ...]
    obstacles: tuple[str, ...]

    def layer_rows(self) -> list[dict[str, Any]]:
        """A row for each layer of any vector: norms in activation units, then cosines; None where
        a vector has no such layer, or is zero there."""
        every = {layer for vector in self.vectors for layer in vector.layers}
        return [self._row(layer) for layer in sorted(every)]

    def _row(self, layer: int) -> dict[str, Any]:
        norms = {
            f"norm {name}": vector.metadata.at(layer).norm if layer in vector.layers else None
            for name, vector in zip(self.names, self.vectors, strict=True)
        }
        cosines = {
            f"{self.names[pair.first]} · {self.names[pair.second]}": pair.cosines.get(layer)
            for pair in self.likenesses
        }
        return {"layer": layer} | norms | cosines

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the keys of `steer compare --json`."""
        named = zip(self.names, (vector.metadata for vector in self.vectors), strict=True)
        return {
            "vectors": [
                {
                    "vector": name,
                    "name": metadata.name,
                    "sha256": metadata.sha256,
                    "model": metadata.model.id,
                    "fingerprint": metadata.model.fingerprint,
                    "site": metadata.site,
                    "positions": metadata.read.positions,
                    "method": metadata.method.name,
                    "norms": {str(row.layer): row.norm for row in metadata.statistics},
                }
                for name, metadata in named
            ],
            "cosines": [
                {
                    "first": self.names[pair.first],
                    "second": self.names[pair.second],
                    "layers": {str(layer): cosine for layer, cosine in pair.cosines.items()},
                }
                for pair in self.likenesses
            ],
            "shared_layers": list(self.shared_layers),
            "can_be_combined": not self.obstacles,
            "obstacles": list(self.obstacles),
        }

    def to_pandas(self) -> Any:
        """One row a layer: norms and cosines; a pandas DataFrame.

        Raises:
            UsageError: pandas is not installed.
        """
        return frame(self.layer_rows())

    def _repr_html_(self) -> str:
        rows = self.layer_rows()
        return html_table("comparison", rows[0], [row.values() for row in rows])


def compare(*vectors: Reference | Vector, names: Sequence[str] | None = None) -> Comparison:
    """Compare vectors layer by layer: lengths, cosines, and whether they can be combined.

    A cosine of 1 is the same direction, -1 its opposite, 0 nothing in common. names: what to call
    them, by default their own names, or as they were referred to.

    Raises:
        UsageError: fewer than two.
        VectorError: a file that is missing or damaged.
    """
    if len(vectors) < 2:
        raise UsageError("one vector has nothing to be compared with", hint="name another")
    each = [as_vector(vector) for vector in vectors]
    called = names or [v.name if isinstance(v, Vector) else str(v) for v in vectors]
    data = [vector.data for vector in each]
    return Comparison(
        tuple(called),
        tuple(each),
        tuple(algebra.likenesses(data)),
        algebra.shared_layers(data),
        tuple(algebra.obstacles(data)),
    )


def combine(
    parts: Recipe | Iterable[str | Vector | Steer],
    *,
    op: str = "sum",
    orthogonal_to: Sequence[Reference | Vector] = (),
    name: str = "combined",
    description: str = "",
    license: str = "",
    find: Callable[[str], Path] = fetch.find,
) -> Vector:
    """One vector that does what several do together: their sum or mean. Or, with op="span", an
    edit that removes all of their directions.

    parts: vectors, `calm:-0.5`, `warm(2, layers=12)`, or a recipe, which may hold low-rank edits
    and parts at different layers. orthogonal_to: vectors whose directions are taken out of the
    result. A licence that all parts share is kept where none is given.

    Raises:
        UsageError: an op that is none of sum, mean and span, or a part with more than a multiple.
        VectorError: the parts differ in model or site, or have no layer in common.
        InputError: a recipe that steers nothing.
    """
    if op not in get_args(CombineOp):
        raise UsageError(f"{op!r} is not a way to combine", hint="use sum, mean or span")
    if isinstance(parts, Recipe):
        if op != "sum" or orthogonal_to:
            raise UsageError("a recipe is a sum", hint="leave --op and --orthogonal-to out")
        return Vector(_collapsed(parts, name, description, license, find))
    return Vector(
        algebra.combine(
            [_part(part, find) for part in parts],
            name=name,
            op=op,  # type: ignore[arg-type]  # checked above
            orthogonal_to=[as_vector(other).data for other in orthogonal_to],
            description=description,
            license=license,
        )
    )


def _collapsed(
    steers: Recipe, name: str, description: str, license: str, find: Callable[[str], Path]
) -> SteeringVector:
    if not steers.steers:
        raise InputError(
            f"{steers.path} steers nothing", hint='write steers = ["joyful:1.5@2"] in it'
        )
    description = description or steers.description
    return collapse(
        resolved(steers.steers, find), name=name, description=description, license=license
    )


def _part(part: str | Vector | Steer, find: Callable[[str], Path]) -> Steer:
    """A multiple of a vector, as `algebra.combine` takes it.

    Raises:
        UsageError: it says more than a multiple: positions, or an op that needs activations.
    """
    if isinstance(part, Vector):
        return Steer(part.data, Coefficient(1.0), part.layers)
    if isinstance(part, Steer):
        if (part.op, part.scope, part.schedule, part.gate) != (ADD, EVERYWHERE, CONSTANT, None):
            raise UsageError(
                f"{part}: only a multiple of a vector can be combined",
                hint="leave op, scope, schedule and gate to the steer of the result",
            )
        return part
    typed = spec.parse(part)
    if (typed.scope, typed.skip_special, typed.schedule) != (None, False, CONSTANT):
        where = typed.scope or ("skip-special" if typed.skip_special else typed.schedule)
        raise UsageError(
            f"{part!r}: a vector has no positions; {str(where)!r} is a matter of its use",
            hint=f"leave /{where} out, and write it after -v when you apply the result",
        )
    if typed.op not in (None, ADD):
        raise UsageError(
            f"{part!r}: {typed.op} depends on the activations, and cannot be summed beforehand",
            hint="combine adds multiples of vectors, such as joyful:0.5",
        )
    vector = store.read(find(typed.reference))
    layers = typed.layers if isinstance(typed.layers, tuple) else vector.metadata.layers
    return Steer(vector, typed.coefficient or Coefficient(1.0), layers)


def read_recipe(path: Reference) -> Recipe:
    """A recipe of vectors and settings, with everything that it includes.

        captain = steer.read_recipe("captain.toml")
        model.generate("One day", captain, **captain.generation)

    Raises:
        InputError: it, or one that it includes, is no recipe, or includes itself.
        SteerError: a file cannot be read.
    """
    return recipe.read(Path(path))


def push(
    vectors: Reference | Sequence[Reference],
    to: str,
    *,
    evidence: Reference | Sequence[Reference] = (),
    private: bool = False,
    force: bool = False,
) -> PushResult:
    """Push vector files, each with a card, to a hub repository, a bucket, a machine or a folder.

    vectors: names or paths of files: save a vector before it is pushed. evidence: files that
    `steer eval -o` or `Evaluation.to_dict` gave, for the cards.

    Raises:
        VectorError: a file that is missing or damaged.
        InputError: evidence of another vector.
        SteerError: the place does not answer, or holds another vector of that name.
    """
    uploads = [prepare_upload(store.find(name)) for name in dict.fromkeys(_several(vectors))]
    if not uploads:
        raise InputError("there is nothing to push")
    known = {
        digest: table
        for file in _several(evidence)
        for digest, table in measured.read(Path(file)).items()
    }
    foreign = set(known) - {each.metadata.sha256 for each in uploads}
    if foreign:
        raise InputError(
            f"--evidence is of another vector: sha256 {min(foreign)[:12]}...",
            hint="measure the file as it is now: steer eval -v FILE ... -o eval.json",
        )
    return pushing.push(parse_folder(to), uploads, known, force=force, private=private)


def _several(references: Reference | Sequence[Reference]) -> list[str]:
    if isinstance(references, (str, PathLike)):
        return [str(references)]
    return list(map(str, references))


def pull(
    address: str,
    out: Reference = "vectors",
    *,
    public_key: Reference | None = None,
    force: bool = False,
) -> Vector:
    """Pull a vector from where it was pushed to, check it, and note its origin in `steer.lock`.

    public_key: a PEM file; the vector must be signed with its private key, now and from then on.

    Raises:
        VectorError: it is missing, damaged, or another one of that name is here.
        SteerError: the place does not answer, or the signature is missing or wrong.
    """
    key = None if public_key is None else Path(public_key)
    pulled = run_pull(parse_vector(address), Path(out), public_key=key, force=force)
    return Vector(store.read(pulled.path))
