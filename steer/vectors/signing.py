"""Optional signatures of vector files, each in a file beside it, `NAME.safetensors.sig`.

Ed25519 from the `cryptography` library. It works offline; a key is one PEM file that openssl and
others read, and a signature is 64 bytes. model-signing, the alternative, signs whole folders by a
manifest and needs sigstore's client, which is much for one small file.

The signature covers a context line and all bytes of the file. The context line keeps signatures of
other things made with the same key from being valid here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from steer.base.errors import SteerError
from steer.base.files import check_writable, read_bytes, read_typed, write_atomic

SIGNATURE = ".sig"
SIGNATURE_LIMIT = 1_000
_CONTEXT = b"steer vector file, signature 1\n"
_KEY_LIMIT = 100_000
_SIGNATURE_BYTES = 64
_KEY_BYTES = 32
#: Of the curve of Ed25519: the prime of its field, and its d.
_PRIME = 2**255 - 19
_D = -121665 * pow(121666, -1, _PRIME) % _PRIME


def make_keys(key: Path) -> Path:
    """Write a new private key, which only its owner can read, and `KEY.pub` beside it.

    Returns the public key's path. Raises SteerError if one of the two exists, or the folder cannot
    be written.
    """
    check_writable(key, force=True)
    library = _library()
    generated = library.Ed25519PrivateKey.generate()
    forms = _serialization()
    private = generated.private_bytes(
        forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()
    )
    public = public_path(key)
    for path in (key, public):
        if path.exists():
            raise SteerError(f"{path} exists", hint="keys are never replaced; name another file")
    # Created with its final mode, so that nobody else can read it even for a moment.
    write_atomic(key, private, mode=0o600)
    try:
        write_atomic(public, _public_pem(generated.public_key()))
    except BaseException:
        key.unlink(missing_ok=True)
        raise
    return public


def public_path(key: Path) -> Path:
    """The path of a private key's public key: `k.pub` for `k.pem`."""
    return key.with_suffix(".pub")


def sign(path: Path, data: bytes, key: Path) -> Path:
    """Write the signature of a vector file's bytes beside it, and return its path.

    Raises:
        SteerError: `key` is not a private key.
    """
    private = _private(key)
    written = _beside(path)
    write_atomic(written, f"{to_text(private.sign(_CONTEXT + data))}\n".encode(), force=True)
    return written


def check(path: Path, data: bytes, public_key: Path) -> str:
    """Check the signature beside a vector file; returns the key as `key_text` writes it.

    Raises:
        SteerError: the file is not signed, the signature is of other bytes or by another key, or
            `public_key` is not a key.
    """
    key = key_text(public_key)
    signature = read_beside(path)
    if signature is None:
        raise SteerError(f"{path} is not signed: there is no {_beside(path)}")
    check_bytes(data, signature, key, subject=str(path), public_key=public_key)
    return key


def check_bytes(data: bytes, signature: bytes, key: str, *, subject: str, public_key: Path) -> None:
    """Check a signature against a key that was read from `public_key`.

    Raises:
        SteerError: the signature is of other bytes, or by another key.
    """
    if not is_signed(data, signature, key):
        raise SteerError(
            f"{subject} is not what the owner of {public_key} has signed",
            hint="get the file, or the key, again from where it came",
        )


def is_signed(data: bytes, signature: bytes, key: str) -> bool:
    """Whether a signature of these bytes was made with this key, in the form of `key_text`.

    Raises:
        SteerError: `key` is not a key, or the library is missing.
    """
    library = _library()
    from cryptography.exceptions import InvalidSignature

    try:
        public = library.Ed25519PublicKey.from_public_bytes(_raw(key))
        public.verify(signature, _CONTEXT + data)
    except InvalidSignature:
        return False
    return True


def read_beside(path: Path, *, follow_links: bool = True) -> bytes | None:
    """The signature beside a vector file, 64 bytes; None where there is none.

    Raises:
        SteerError: the signature file cannot be read, or is not a signature.
    """
    file = _beside(path)
    if not os.path.lexists(file):
        return None
    return parse(read_bytes(file, limit=SIGNATURE_LIMIT, follow_links=follow_links), str(file))


def parse(data: bytes, subject: str) -> bytes:
    """The 64 bytes of a signature file, which holds them in base64.

    Raises:
        SteerError: it holds something else.
    """
    with suppress(binascii.Error):
        signature = base64.b64decode(data.strip(), validate=True)
        if len(signature) == _SIGNATURE_BYTES:
            return signature
    raise SteerError(
        f"{subject} is not a signature of {_SIGNATURE_BYTES} bytes in base64",
        hint="`steer sign` writes one",
    )


def to_text(signature: bytes) -> str:
    """A signature in base64, as its file holds it, without the newline."""
    return base64.b64encode(signature).decode()


def key_text(public_key: Path) -> str:
    """A public key's 32 bytes in base64, as `steer.lock` keeps it.

    Raises:
        SteerError: the file holds no public key.
    """
    forms = _serialization()
    raw = _public(public_key).public_bytes(forms.Encoding.Raw, forms.PublicFormat.Raw)
    key = base64.b64encode(raw).decode()
    _raw(key)
    return key


def fingerprint(key: str) -> str:
    """Sixteen hex digits of a key's hash, short enough to compare over the telephone.

    Raises:
        SteerError: `key` is not a key.
    """
    public = _library().Ed25519PublicKey.from_public_bytes(_raw(key))
    return hashlib.sha256(_public_pem(public)).hexdigest()[:16]


def _raw(key: str) -> bytes:
    with suppress(binascii.Error, ValueError):
        raw = base64.b64decode(key, validate=True)
        if len(raw) == _KEY_BYTES:
            if _is_weak(raw):
                raise SteerError(
                    f"{key[:60]!r} is no key of anybody's: signatures by it can be made without one"
                )
            return raw
    raise SteerError(f"{key[:60]!r} is not a public key in base64")


def _is_weak(key: bytes) -> bool:
    """Whether a public key is a point whose order divides 8, under which signatures can be made
    without a private key. The curve is -x^2 + y^2 = 1 + d x^2 y^2 (RFC 8032, section 5.1): y is 1
    or -1 for the orders 1 and 2, 0 for 4; twice a point of order 8 is one of order 4, so there
    x^2 = -y^2."""
    y = int.from_bytes(key, "little") & ((1 << 255) - 1)  # without the bit for the sign of x
    squared = y * y
    return y * (squared - 1) * (_D * squared * squared + 2 * squared - 1) % _PRIME == 0


def _beside(path: Path) -> Path:
    return path.with_name(path.name + SIGNATURE)


def _public_pem(public: Any) -> bytes:
    forms = _serialization()
    return bytes(public.public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo))


def _private(path: Path) -> Any:
    library, forms = _library(), _serialization()
    try:
        key = forms.load_pem_private_key(read_typed(path, limit=_KEY_LIMIT), password=None)
    except (ValueError, TypeError, _unsupported()) as error:
        raise SteerError(f"{path} is not a private key", hint=_MAKE) from error
    if not isinstance(key, library.Ed25519PrivateKey):
        raise SteerError(f"{path} is not an Ed25519 key", hint=_MAKE)
    return key


def _public(path: Path) -> Any:
    library, forms = _library(), _serialization()
    try:
        key = forms.load_pem_public_key(read_typed(path, limit=_KEY_LIMIT))
    except (ValueError, TypeError, _unsupported()) as error:
        raise SteerError(
            f"{path} is not a public key",
            hint="`steer sign --key k.pem --new-key` writes the public key to k.pub",
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
