"""Push, pull, list and sign: a hub, a bucket, SFTP and a folder, by the clients that users have."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import msgspec
import pytest
import servers
from conftest import make_vector
from hub_server import Hub, served
from huggingface_hub import constants
from typer.testing import CliRunner, Result

from steer.base.errors import SteerError, UsageError, VectorError
from steer.cli.main import app
from steer.sharing import fetch
from steer.sharing.address import parse_folder, parse_vector
from steer.sharing.opening import open_place
from steer.sharing.places import ChangedError, listing
from steer.sharing.pull import pull
from steer.sharing.push import prepare_upload, push
from steer.vectors import lock, signing, store
from steer.vectors.vector import SteeringVector

# huggingface_hub uploads with an argument that the client below it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def steer(*words: object) -> str:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*words: object, because: str, code: int = 1) -> None:
    result = run(*words)
    assert result.exit_code == code, result.output
    assert because in " ".join(result.stderr.split())


@pytest.fixture(autouse=True)
def _own_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The unchanged client talks to a hub on this machine."""
    with served() as running:
        servers.use("hub", running.url, tmp_path, monkeypatch)
        yield running
        huggingface_hub.close_session()


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an empty bucket of an S3 server."""
    home = tmp_path_factory.mktemp("home")
    with servers.s3(home) as address, pytest.MonkeyPatch.context() as patch:
        servers.use("s3", address, home, patch)
        import s3fs

        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("team")
        yield "s3://team"


@pytest.fixture(scope="module")
def sftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An address in an SFTP server whose host key the user's known_hosts has."""
    home = tmp_path_factory.mktemp("home")
    with servers.sftp(home) as address, pytest.MonkeyPatch.context() as patch:
        servers.use("sftp", address, home, patch)
        yield f"{address}{tmp_path_factory.mktemp('files')}"


@dataclass
class Team:
    """A place that starts empty. public: its address as it may be shown."""

    url: str
    public: str


@pytest.fixture(params=["hf", "s3", "sftp", "file", "path"])
def team(request: pytest.FixtureRequest, tmp_path: Path) -> Team:
    folder_name = tmp_path.name
    if request.param == "hf":
        request.getfixturevalue("hub")
        return Team("hf://team/vectors", "hf://team/vectors")
    if request.param == "s3":
        url = f"{request.getfixturevalue('bucket')}/{folder_name}"
        return Team(url, url)
    if request.param == "sftp":
        url = f"{request.getfixturevalue('sftp')}/{folder_name}/deep"
        return Team(url, url.replace(":secret", ""))
    url = f"{tmp_path}/shared/team"
    return Team(f"file://{url}" if request.param == "file" else url, url)


def written(name: str = "calm", **options: Any) -> Path:
    Path("mine").mkdir(exist_ok=True)
    path = Path(f"mine/{name}.safetensors")
    store.write(path, make_vector(name=name, **options), force=True)
    return path


def test_what_is_pushed_can_be_listed_pulled_verified_and_used(team: Team) -> None:
    path = written()
    assert team.public in steer("push", path, team.url)
    listed = json.loads(steer("list", team.url, "--json"))["vectors"]
    suffix = "" if "://" in team.url else ".safetensors"  # a path says which file it means
    assert [(row["path"], row["name"]) for row in listed] == [
        (f"{team.public}/calm{suffix}", "calm")
    ]
    pulled = json.loads(steer("pull", f"{team.url}/calm", "--json"))["vectors"][0]
    assert Path(pulled["path"]).read_bytes() == path.read_bytes()
    assert "secret" not in Path("vectors/steer.lock").read_text()
    assert lock.origins(Path("vectors"))["calm"] == lock.Origin(
        url=f"{team.public}/calm", revision=pulled["revision"], sha256=pulled["sha256"]
    )
    assert team.public in steer("verify", "calm")
    assert "# calm" in Path("vectors/calm.md").read_text()
    shown = json.loads(steer("show", f"{team.url}/calm{suffix}", "--json"))
    assert shown["sha256"] == pulled["sha256"]
    assert fetch.find(f"{team.url}/calm{suffix}").read_bytes() == path.read_bytes()


def test_nothing_different_is_overwritten_in_silence(team: Team) -> None:
    first = written()
    steer("push", first, team.url)
    steer("pull", f"{team.url}/calm")
    assert "already" in steer("push", first, team.url)
    assert "already" in steer("pull", f"{team.url}/calm")
    other = written(seed=1)
    refused("push", other, team.url, because="another vector named calm")
    steer("push", other, team.url, "--force")
    before = Path("vectors/calm.safetensors").read_bytes()
    refused("pull", f"{team.url}/calm", because="another vector")
    assert Path("vectors/calm.safetensors").read_bytes() == before
    steer("pull", f"{team.url}/calm", "--force")
    assert Path("vectors/calm.safetensors").read_bytes() == other.read_bytes()


def test_an_index_has_all_vectors_and_links_their_cards(team: Team) -> None:
    steer("push", written(), team.url)
    place = open_place(parse_folder(team.url))
    assert b"# calm" in place.read("README.md", 0, 10_000)  # alone, its card is the page
    steer("push", written("warm"), written("cold"), team.url)
    place = open_place(parse_folder(team.url))
    text = place.read("README.md", 0, place.files()["README.md"]).decode()
    assert all(f"[{name}]({name}.md)" in text for name in ("calm", "warm", "cold"))
    assert {"calm.md", "warm.md", "cold.md"} <= set(place.files())


def test_a_readme_by_hand_is_left_alone(team: Team) -> None:
    steer("push", written(), team.url)
    place = open_place(parse_folder(team.url))
    place.write({"README.md": b"ours\n"}, "by hand", replace=frozenset(["README.md"]))
    assert "was not changed" in run("push", written("warm"), team.url).stderr
    assert open_place(parse_folder(team.url)).read("README.md", 0, 99) == b"ours\n"


@pytest.mark.parametrize("text", ["hf:me/vectors", "hf:/me", "s3:bucket", "ssh:host/folder"])
def test_an_address_without_its_slashes_is_no_folder_here(text: str) -> None:
    """What is not shared must not be said to be."""
    with pytest.raises(UsageError, match="the slashes are missing"):
        parse_folder(text)
    assert parse_folder(f"./{text}").folder.endswith(text)


def test_a_place_that_has_no_such_vector_says_so(team: Team) -> None:
    steer("push", written(), team.url)
    refused("pull", f"{team.url}/nobody", because="there is no")
    assert not Path("vectors").exists() or not list(Path("vectors").glob("nobody*"))


def test_only_headers_are_read_to_list(hub: Hub) -> None:
    from steer.vectors.provenance import ModelIdentity

    wide = ModelIdentity(id="t", architecture="T", d_model=50_000, n_layers=4, fingerprint="0" * 16)
    path = written(identity=wide)
    push(parse_folder("hf://team/vectors"), [prepare_upload(path)], {})
    hub.sent, hub.ranges = 0, []
    listed = listing(open_place(parse_folder("hf://team/vectors")))
    assert [entry.metadata.model for entry in listed if entry.metadata] == [wide]
    assert hub.ranges == ["bytes=0-65535"] and hub.sent <= 65536 < path.stat().st_size


def test_a_commit_stays_what_it_was(hub: Hub) -> None:
    first = written()
    data = first.read_bytes()
    steer("push", first, "hf://team/vectors")
    old = hub.repositories["team/vectors"].head
    steer("push", written(seed=1), "hf://team/vectors", "--force")
    for n, url in enumerate((f"hf://team/vectors/calm@{old}", f"hf://team/vectors@{old}/calm")):
        steer("pull", url, "-o", f"v{n}")
        assert Path(f"v{n}/calm.safetensors").read_bytes() == data
        assert lock.origins(Path(f"v{n}"))["calm"].revision == old
    refused("push", written("warm"), f"hf://team/vectors@{old}", because="is a commit", code=2)
    refused("pull", "hf://team/vectors/calm@" + "0" * 40, because="there is no such thing")


def test_one_commit_with_another_content_is_refused(hub: Hub) -> None:
    steer("push", written(), "hf://team/vectors")
    steer("pull", "hf://team/vectors/calm")
    url, revision = "hf://team/vectors/calm", hub.repositories["team/vectors"].head
    lock.keep(Path("vectors"), "calm", lock.Origin(url=url, revision=revision, sha256="ff"))
    refused("pull", url, because="gives another vector for the same commit")
    refused("verify", "calm", because="not the vector that was pulled")


def test_the_hub_is_not_needed_for_what_was_fetched(hub: Hub, monkeypatch: Any) -> None:
    path = written()
    steer("push", path, "hf://team/vectors")
    steer("pull", "hf://team/vectors/calm", "-o", "there")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "cache" in run("pull", "hf://team/vectors/calm").stderr
    assert Path("vectors/calm.safetensors").read_bytes() == path.read_bytes()
    assert fetch.find("hf://team/vectors/calm").read_bytes() == path.read_bytes()
    refused("pull", "hf://team/vectors/warm", because="not in the cache")


def test_a_bucket_is_not_needed_for_what_was_fetched(bucket: str, monkeypatch: Any) -> None:
    path = written()
    steer("push", path, f"{bucket}/off")
    assert fetch.find(f"{bucket}/off/calm").read_bytes() == path.read_bytes()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    notes: list[str] = []
    assert fetch.find(f"{bucket}/off/calm", notes.append).read_bytes() == path.read_bytes()
    assert "cache" in notes[0]


def test_without_a_token_the_next_step_is_told(hub: Hub, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused("push", written(), "hf://team/vectors", because="hf auth login")


def test_a_host_with_an_unknown_key_is_refused(sftp: str, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    refused("list", sftp, because="known_hosts")
    refused("push", written(), sftp, because="known_hosts")


@pytest.mark.parametrize("at", [0, 100, 1000])
def test_a_download_that_breaks_off_leaves_nothing(hub: Hub, at: int, monkeypatch: Any) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's tries
    steer("push", written(), "hf://team/vectors")
    hub.cut = at
    result = run("pull", "hf://team/vectors/calm")
    assert result.exit_code == 1 and not list(Path().glob("vectors/calm*"))
    hub.cut = None
    steer("pull", "hf://team/vectors/calm")


def test_what_is_damaged_there_is_not_taken(team: Team) -> None:
    data = bytearray(written().read_bytes())
    data[-1] ^= 1
    place = open_place(parse_folder(team.url))
    place.write({"calm.safetensors": bytes(data)}, "bad", replace=frozenset())
    refused("pull", f"{team.url}/calm", because="altered")
    assert not Path("vectors/calm.safetensors").exists()
    place = open_place(parse_folder(team.url))
    place.write({"long.safetensors": b"\xff" * 100}, "bad", replace=frozenset())
    assert "not a safetensors file" in run("list", team.url).stderr


def test_a_vector_at_an_address_is_verified_by_the_signature_there(team: Team) -> None:
    path = written()
    steer("push", path, team.url)
    at = f"{team.url}/calm" if "://" in team.url else f"{team.url}/calm.safetensors"
    steer("sign", written("other"), "--key", "k.pem", "--new-key")
    refused("verify", at, "--public-key", "k.pub", because="is not signed")
    steer("sign", path, "--key", "k.pem")
    steer("push", path, team.url, "--force")
    assert "signed by" in steer("verify", at, "--public-key", "k.pub")
    steer("sign", written("third"), "--key", "k2.pem", "--new-key")
    refused("verify", at, "--public-key", "k2.pub", because="is not what the owner")


def test_a_signature_goes_along_and_holds_for_these_bytes_and_this_key_alone(
    tmp_path: Path,
) -> None:
    path = written()
    steer("sign", path, "--key", "k.pem", "--new-key")
    assert Path("k.pem").stat().st_mode & 0o077 == 0
    refused("sign", path, "--key", "k.pem", "--new-key", because="exists")
    steer("push", path, "team")
    assert json.loads(steer("pull", "team/calm", "--json"))["vectors"][0]["signed"]
    assert "signed by" in steer("verify", "calm", "--public-key", "k.pub")
    steer("sign", written("other"), "--key", "k2.pem", "--new-key")
    refused("verify", "calm", "--public-key", "k2.pub", because="is not what the owner")
    refused("verify", "calm", "--public-key", "k.pem", because="is not a public key")
    store.write(Path("vectors/calm.safetensors"), make_vector(name="calm", seed=1), force=True)
    Path("vectors/steer.lock").unlink()
    refused("verify", "calm", "--public-key", "k.pub", because="is not what the owner")
    Path("vectors/calm.safetensors.sig").unlink()
    refused("verify", "calm", "--public-key", "k.pub", because="is not signed")


def signed(seed: int, key: str | None) -> Path:
    """A vector named calm, pushed to `team`, signed by a key or not at all."""
    path = written(seed=seed)
    path.with_name("calm.safetensors.sig").unlink(missing_ok=True)
    if key is not None:
        options = () if Path(key).exists() else ("--new-key",)
        steer("sign", path, "--key", key, *options)
    return path


def replaced_there(path: Path) -> None:
    """What somebody does who can write into the shared folder."""
    for file in Path("team").glob("calm*"):
        file.unlink()
    for file in path.parent.glob("calm*"):
        shutil.copy(file, "team")


#: Who signs the vector after the first one, which "ours.pem" has signed, and whether the public key
#: of the first was given; and whether that is taken.
SUCCESSORS = [
    ("ours.pem", True, True),
    ("theirs.pem", True, False),
    (None, True, False),
    ("ours.pem", False, False),  # nobody here can tell whose it is
    ("theirs.pem", False, False),
    (None, False, False),
]


@pytest.mark.parametrize(("key", "known", "taken"), SUCCESSORS)
def test_a_signed_vector_is_replaced_only_by_one_of_the_same_signer(
    key: str | None, known: bool, taken: bool
) -> None:
    """Nor by --force: that is for another vector, not for another signer."""
    steer("push", signed(0, "ours.pem"), "team")
    steer("pull", "team/calm", *(("--public-key", "ours.pub") if known else ()))
    before = {path: path.read_bytes() for path in Path("vectors").iterdir()}
    replaced_there(signed(1, key))
    if taken:
        steer("pull", "team/calm", "--force")
        steer("verify", "calm", "--public-key", "ours.pub")
        return
    refused("pull", "team/calm", "--force", because="was signed")
    assert {path: path.read_bytes() for path in Path("vectors").iterdir()} == before
    if key is not None:  # the user says whose it is now
        public = key.replace(".pem", ".pub")
        steer("pull", "team/calm", "--force", "--public-key", public)
        steer("verify", "calm", "--public-key", public)


@pytest.mark.parametrize(("key", "known", "taken"), SUCCESSORS)
def test_no_reader_takes_what_replaced_a_signed_vector(
    key: str | None, known: bool, taken: bool
) -> None:
    """Every command that reads a vector: whoever wrote into ./vectors is found out."""
    steer("push", signed(0, "ours.pem"), "team")
    steer("pull", "team/calm", *(("--public-key", "ours.pub") if known else ()))
    for file in Path("vectors").glob("calm.safetensors*"):
        file.unlink()
    for file in signed(1, key).parent.glob("calm*"):
        shutil.copy(file, "vectors")
    commands: list[tuple[str, ...]] = [
        ("apply", "w1", "-v", "calm:1@1"),
        ("bake", "-v", "calm:1@1", "-o", "baked"),
        ("push", "calm", "other"),
        ("sign", "calm", "--key", "ours.pem"),
        ("verify", "calm"),
        ("monitor", "w1", "-v", "calm"),
        ("eval", "-v", "calm:1@1"),
        ("combine", "calm", "calm", "-o", "sum.safetensors"),
        ("convert", "calm:1@1", "calm.gguf"),
        ("compare", "calm", "calm"),
    ]
    if not taken:
        commands.append(("serve", "--vectors", "vectors"))  # it would run otherwise
    for words in commands:
        if taken:
            # What they say instead is about the model; `verify` knows the very hash.
            assert "was signed" not in run(*words).stderr
        else:
            refused(*words, because="was signed")
    written("calm", seed=2)
    store.write(Path("vectors/calm.safetensors"), make_vector(seed=2), force=True)
    assert "calm" not in lock.origins(Path("vectors"))  # our own work is not refused
    steer("verify", "calm")


def test_a_public_key_that_anybody_can_sign_under_is_none() -> None:
    """Points of a small order; with S = 0 and the neutral point for R one signature in a few holds
    for any bytes."""
    anybody = b"\x01" + bytes(63)
    for y in (0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18, 2**255 + 1):
        key = base64.b64encode(y.to_bytes(32, "little")).decode()
        with pytest.raises(SteerError, match="no key of anybody"):
            signing.is_signed(b"any bytes", anybody, key)


def test_a_vector_that_is_not_signed_is_not_pushed_over_one_that_is() -> None:
    steer("push", signed(0, "ours.pem"), "team")
    refused("push", signed(1, None), "team", "--force", because="has a signed vector")
    steer("push", signed(1, "ours.pem"), "team", "--force")


@pytest.mark.parametrize("suffix", [".safetensors", ".safetensors.sig", ".md"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
def test_what_is_no_file_in_a_shared_folder_is_refused(suffix: str, kind: str) -> None:
    """A link would hand over any file of whoever pulls, and to all once that is pushed again."""
    steer("push", signed(0, "ours.pem"), "team")
    file = Path(f"team/calm{suffix}")
    if kind == "link":
        file.rename("secret")
    else:
        file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(Path("secret").absolute())
    refused("pull", "team/calm", because="is a pipe" if kind == "pipe" else "is a link")
    assert not Path("vectors").exists()
    run("list", "team")  # says what it is, or lists it; it does not wait


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"secret\n",
        b"A" * 64,
        base64.b64encode(b"x" * 63),
        base64.b64encode(b"x" * 65),
        b"-----BEGIN OPENSSH PRIVATE KEY-----\n",
        b"A" * 2_000,
    ],
)
def test_only_signatures_are_pulled_and_pushed_as_signatures(data: bytes) -> None:
    path = written()
    steer("push", path, "team")
    Path("team/calm.safetensors.sig").write_bytes(data)
    refused("pull", "team/calm", because="")
    assert not Path("vectors").exists()
    path.with_name("calm.safetensors.sig").write_bytes(data)
    refused("push", path, "elsewhere", because="")
    assert not Path("elsewhere").exists()


def test_no_link_beside_a_vector_is_pushed() -> None:
    """A folder from elsewhere, such as a clone, can have links to our own files."""
    path = signed(0, "ours.pem")
    signature = path.with_name("calm.safetensors.sig")
    signature.rename("secret")
    signature.symlink_to(Path("secret").absolute())
    refused("push", path, "team", because="is a link")


@pytest.mark.parametrize(
    ("words", "because"),
    [
        (["sign", "mine/calm.safetensors", "--new-key", "--key", ""], "is a folder"),
        (["sign", "mine/calm.safetensors", "--new-key", "--key", "none/k.pem"], "does not exist"),
        (["sign", "mine/calm.safetensors", "--new-key", "--key", "k" * 300], "too long"),
        (
            ["sign", "mine/calm.safetensors", "--key", "mine/calm.safetensors"],
            "is not a private key",
        ),
        (["pull", "./mine/calm", "-o", "k" * 300], "too long"),
        (["pull", "nothing"], "see `steer list .`"),
        (["pull", "./folder"], "is a folder"),
        (["push", "mine/calm.safetensors", "plain.txt"], "File exists"),
    ],
)
def test_places_and_keys_that_cannot_be(words: list[str], because: str) -> None:
    written()
    Path("folder.safetensors").mkdir()
    Path("plain.txt").write_text("text")
    refused(*words, because=because)
    assert "[Errno" not in run(*words).output


def test_a_card_says_what_was_measured_and_nothing_of_its_text_is_markup() -> None:
    bad = "<script>x</script> [a](http://b)\n# head"
    path = Path("calm.safetensors")
    vector = make_vector()
    described = msgspec.structs.replace(vector.metadata, description=bad)
    store.write(path, SteeringVector(described, vector.directions))
    digest = store.read(path).metadata.sha256
    measured = {"value": 0.5, "low": 0.25, "high": 0.75}
    rows = [
        {"vector": None, "label": "unsteered", "kl": None, "preference": measured},
        {"vector": "calm", "label": "calm", "kl": measured, "preference": measured},
    ]
    evidence_fields = {"vectors": {"calm": digest}, "rows": rows, "command": "steer eval -v calm"}
    Path("eval.json").write_text(json.dumps(evidence_fields))
    steer("push", path, "team")
    assert "Not measured" in Path("team/calm.md").read_text()
    steer("push", path, "team", "--evidence", "eval.json")
    text = Path("team/calm.md").read_text()
    assert r"0.500 \[0.250, 0.750\]" in text and "Not measured" not in text
    assert "<script" not in text and "](http" not in text and "\n# head" not in text
    refused("push", written(seed=1), "new", "--evidence", "eval.json", because="another vector")


def _push_many(url: str, name: str, rounds: int, seeds: list[int]) -> None:
    for seed in seeds * (rounds // len(seeds)):
        path = Path(f"by{seeds[0]}/{name}.safetensors")
        path.parent.mkdir(exist_ok=True)
        store.write(path, make_vector(name=name, seed=seed), force=True)
        push(parse_folder(url), [prepare_upload(path)], {}, force=True)


def at_once(work: Callable[..., None], *arguments: tuple[Any, ...]) -> None:
    """Run it with each of the arguments, in threads: a fork would take the servers' locks along."""
    with ThreadPoolExecutor() as pool:
        for running in [pool.submit(work, *argument) for argument in arguments]:
            running.result()


def test_two_who_push_two_names_are_both_in_the_index(tmp_path: Path, hub: Hub) -> None:
    for url in (str(tmp_path / "team"), "hf://team/vectors"):
        at_once(_push_many, (url, "calm", 4, [1, 2]), (url, "warm", 4, [3, 4]))
        place = open_place(parse_folder(url))
        text = place.read("README.md", 0, 10_000).decode()
        assert "[calm](calm.md)" in text and "[warm](warm.md)" in text


def _note_many(folder: str, name: str) -> None:
    for number in range(40):
        lock.keep(Path(folder), f"{name}{number % 10}", lock.Origin(url="a/b", sha256=str(number)))


def test_two_who_note_origins_lose_none(tmp_path: Path) -> None:
    at_once(_note_many, (str(tmp_path), "a"), (str(tmp_path), "b"))
    assert len(lock.origins(tmp_path)) == 20


def test_who_comes_second_is_told(tmp_path: Path) -> None:
    place = open_place(parse_folder(str(tmp_path)))
    place.write({"a": b"1"}, "", replace=frozenset())
    with pytest.raises(ChangedError):
        place.write({"a": b"2"}, "", replace=frozenset())
    assert (tmp_path / "a").read_bytes() == b"1"


def test_a_bucket_tells_who_comes_second(bucket: str) -> None:
    place = open_place(parse_folder(f"{bucket}/second"))
    place.write({"a": b"1"}, "", replace=frozenset())
    with pytest.raises(ChangedError):
        place.write({"a": b"2"}, "", replace=frozenset())
    assert place.read("a", 0, 1) == b"1"


def test_a_hub_that_moved_on_is_read_again(hub: Hub) -> None:
    steer("push", written(), "hf://team/vectors")
    late = open_place(parse_folder("hf://team/vectors"))
    assert late.files()
    steer("push", written("warm"), "hf://team/vectors")
    with pytest.raises(ChangedError):
        late.write({"x.md": b""}, "late", replace=frozenset())
    assert (
        "x.md"
        not in hub.repositories["team/vectors"].commits[hub.repositories["team/vectors"].head]
    )


@pytest.mark.parametrize(
    "text",
    ["hf://team", "hf://datasets/team/x", "hf://team/v/../../x", "s3://b/..", "", "s3://b/a\0",
     "simplecache::s3://b/x", "hf://team/v/.x", "s3://b/a b", "hf://t/v@a/x@b", "hf://t/v/x@a b",
     "hf://team/vectors", "s3://", "s3://b/\udcff/x", "team/\x1b[2J/x"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_vector(text)


@pytest.mark.parametrize("protocol", ["reference", "zip", "data", "generic", "nonsense"])
def test_addresses_in_addresses_are_no_places(protocol: str) -> None:
    refused("list", f"{protocol}://x/y", because="cannot hold vectors")


def test_names_in_a_listing_cannot_leave_the_folder(tmp_path: Path) -> None:
    (tmp_path / "team").mkdir()
    for name in ("..safetensors", ".hidden.safetensors", "a b.safetensors", "\x1b[2J.safetensors"):
        (tmp_path / "team" / name).write_bytes(written().read_bytes())
    assert listing(open_place(parse_folder(str(tmp_path / "team")))) == []


def test_a_lock_file_that_is_damaged_is_told(tmp_path: Path) -> None:
    for text in (
        "{",
        "[]",
        '{"format":2,"vectors":{}}',
        '{"format":1,"format":1,"vectors":{}}',
        "\xff",
    ):
        (tmp_path / lock.NAME).write_bytes(text.encode("latin-1"))
        with pytest.raises(VectorError):
            lock.origins(tmp_path)


def test_a_card_by_hand_is_kept(tmp_path: Path) -> None:
    steer("push", written(), "team")
    Path("vectors").mkdir()
    Path("vectors/calm.md").write_text("mine\n")
    pull(parse_vector("team/calm"), Path("vectors"))
    assert Path("vectors/calm.md").read_text() == "mine\n"


def test_a_folder_that_cannot_be_made_is_an_error() -> None:
    Path("file").write_text("")
    with pytest.raises(SteerError):
        push(parse_folder("file/team"), [prepare_upload(written())], {})
    refused("pull", "mine/calm", "-o", "file/x", because="file")
