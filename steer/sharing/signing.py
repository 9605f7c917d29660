"""Who made a vector file: an optional signature beside it, `NAME.safetensors.sig`.

Ed25519 by the `cryptography` library. It works offline, a key is one PEM file that openssl and
others read, and a signature 64 bytes. model-signing, the alternative, signs whole folders by a
manifest and brings sigstore's client along: much for one small file.

What is signed are all bytes of the file, after a line that says what for: no signature of something
else made with the same key counts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from pathlib import Path
from typing import Any, cast

from steer.base.errors import SteerError
from steer.base.files import check_writable, read_bytes, reported, write_atomic

SIGNATURE = ".sig"
SIGNATURE_LIMIT = 1_000
_CONTEXT = b"steer vector file, signature 1\n"
_KEY_LIMIT = 100_000


def make_keys(key: Path) -> Path:
    """Write a new private key, which only its owner can read, and `KEY.pub` beside it.

    Returns the public key's path. Raises SteerError where one of the two exists, or the folder
    takes none.
    """
    check_writable(key, force=True)
    library = _library()
    made = library.Ed25519PrivateKey.generate()
    forms = _serialization()
    private = made.private_bytes(
        forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()
    )
    public = public_path(key)
    for path in (key, public):
        if path.exists():
            raise SteerError(f"{path} exists", hint="keys are not replaced; name another file")
    # Nobody else may read it even for a moment.
    with (
        reported(key),
        os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
    ):
        file.write(private)
    write_atomic(public, _public_pem(made.public_key()))
    return public


def public_path(key: Path) -> Path:
    """Where the public key of a private one lies: `k.pem` has `k.pub`."""
    return key.with_suffix(".pub")


def sign(path: Path, data: bytes, key: Path) -> Path:
    """Write the signature of a vector file's bytes beside it, and return its path.

    Raises:
        SteerError: the key is none.
    """
    private = _private(key)
    signature = base64.b64encode(private.sign(_CONTEXT + data)) + b"\n"
    written = path.with_name(path.name + SIGNATURE)
    write_atomic(written, signature, force=True)
    return written


def check(path: Path, data: bytes, public_key: Path) -> str:
    """Check the signature beside a vector file; returns the key's fingerprint.

    Raises:
        SteerError: there is none, it is of other bytes or by another key, or the key is none.
    """
    from cryptography.exceptions import InvalidSignature

    public = _public(public_key)
    file = path.with_name(path.name + SIGNATURE)
    if not file.is_file():
        raise SteerError(f"{path} is not signed: there is no {file}")
    try:
        signature = base64.b64decode(read_bytes(file, limit=SIGNATURE_LIMIT).strip(), validate=True)
        public.verify(signature, _CONTEXT + data)
    except (binascii.Error, InvalidSignature):
        raise SteerError(
            f"{path} is not what the owner of {public_key} has signed",
            hint="get the file, or the key, again from where it came",
        ) from None
    return fingerprint(public)


def fingerprint(public: Any) -> str:
    """Sixteen digits to compare over the telephone."""
    return hashlib.sha256(_public_pem(public)).hexdigest()[:16]


def _public_pem(public: Any) -> bytes:
    forms = _serialization()
    return bytes(public.public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo))


def _private(path: Path) -> Any:
    library, forms = _library(), _serialization()
    try:
        key = forms.load_pem_private_key(read_bytes(path, limit=_KEY_LIMIT), password=None)
    except (ValueError, TypeError, _unsupported()) as error:
        raise SteerError(f"{path} is not a private key", hint=_MAKE) from error
    if not isinstance(key, library.Ed25519PrivateKey):
        raise SteerError(f"{path} is not an Ed25519 key", hint=_MAKE)
    return key


def _public(path: Path) -> Any:
    library, forms = _library(), _serialization()
    try:
        key = forms.load_pem_public_key(read_bytes(path, limit=_KEY_LIMIT))
    except (ValueError, TypeError, _unsupported()) as error:
        raise SteerError(
            f"{path} is not a public key",
            hint="of the key k.pem `steer sign --new-key` writes it as k.pub",
        ) from error
    if not isinstance(key, library.Ed25519PublicKey):
        raise SteerError(f"{path} is not an Ed25519 key")
    return key


_MAKE = "steer sign FILE --key k.pem --new-key makes one"


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise SteerError(
            "signatures need the cryptography library", hint="pip install 'steer-activations[sign]'"
        ) from None
    return ed25519


def _serialization() -> Any:
    from cryptography.hazmat.primitives import serialization

    return serialization


def _unsupported() -> type[Exception]:
    from cryptography.exceptions import UnsupportedAlgorithm

    return cast("type[Exception]", UnsupportedAlgorithm)
