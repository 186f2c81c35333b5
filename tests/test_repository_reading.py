"""The model repository, of every kind: what is read in it, its journal, models of other people, names, fsck, and the verbs alone."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kept import JOURNAL, MODEL, Kept, config_text, message_of

from airflow_triton import model_config
from airflow_triton import repository as core
from airflow_triton.errors import ConflictError, RepositoryError
from airflow_triton.repository import LocalRepository, Release, StoredConfig
from airflow_triton.repository.layout import LAYOUT, check_layout
from airflow_triton.repository.manifest import FileDigest
from airflow_triton.repository.places import Item
from airflow_triton.repository.release import MOST_RELEASES

# --- what is wrong with what is stored


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (None, "is missing"),
        (b"model", "has 5 bytes instead of 7"),
        (b"madel 1", "has another content than its manifest says"),
    ],
    ids=["missing", "truncated", "altered"],
)
def test_damage_names_the_file(kept: Kept, harm: bytes | None, told: str) -> None:
    """A missing, truncated or altered file of a version is named, with what is wrong."""
    kept.put(1)
    assert kept.store.damage(MODEL, 1) == []

    if harm is None:
        kept.delete("resnet/1/model.onnx/model.onnx")
    else:
        kept.write("resnet/1/model.onnx/model.onnx", harm)

    assert kept.store.damage(MODEL, 1) == [f"{kept.where(1, 'model.onnx/model.onnx')} {told}"]


def test_a_version_without_manifest_is_damaged(kept: Kept) -> None:
    """Nothing can be said of its files, so it is not whole."""
    assert kept.store.damage(MODEL, 5) == [f"{kept.where(5)} has no deployment.json"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"layout": 1}', b"\xff\xfe".decode("latin-1")],
    ids=["empty", "no JSON", "no mapping", "incomplete", "something else"],
)
def test_a_damaged_manifest_is_an_error(kept: Kept, text: str) -> None:
    """It is never taken for a version that is not ours: RepositoryError that names the file."""
    kept.put(1)
    kept.write("resnet/1/deployment.json", text.encode("latin-1"))

    assert kept.where(1, "deployment.json") in message_of(lambda: kept.store.manifest(MODEL, 1), RepositoryError)


def test_a_newer_manifest_is_refused(kept: Kept) -> None:
    """What a newer release wrote is not guessed at."""
    kept.put(1)
    path = "resnet/1/deployment.json"
    kept.write(path, json.dumps({**json.loads(kept.files()[path]), "layout": LAYOUT + 1}))

    told = message_of(lambda: kept.store.manifest(MODEL, 1), RepositoryError)

    assert kept.where(1, "deployment.json") in told
    assert "upgrade airflow-provider-triton" in told


@pytest.mark.parametrize("found", [LAYOUT + 1, None, "1", 1.0], ids=["newer", "none", "text", "fraction"])
def test_a_layout_that_is_not_known_is_refused(found: object) -> None:
    """Only whole numbers up to today's are known."""
    assert "config.pbtxt" in message_of(lambda: check_layout(found, "config.pbtxt"), RepositoryError)


# --- the journal


def test_the_journal_survives_its_way_through_the_file(kept: Kept) -> None:
    """Every release comes back as it was committed, those with another config, how and alias, too."""
    made = [
        Release(
            id="a",
            version=1,
            servable_id="servable-model 1",
            how="promote",
            config=config_text(4),
            alias="champion",
            at="2026-01-01T00:00:00+00:00",
        ),
        Release(id="b", version=2, servable_id="servable-model 2", how="promote", config=config_text(8), alias=None),
        Release(id="c", version=1, servable_id="servable-model 1", how="rollback", config=config_text(4), alias="é\u2028 # \n"),
        Release(id="d", version=2, servable_id="servable-model 2", how="promote", config=config_text(16)),
    ]
    kept.put(1)
    kept.put(2)

    for release in made:
        core.commit(kept.store, MODEL, release, expected=kept.store.read_config(MODEL))
        assert model_config.parse(kept.config().decode()).max_batch_size == model_config.parse(release.config).max_batch_size

    assert core.releases(kept.store, MODEL) == made


def test_the_journal_forgets_the_oldest(kept: Kept) -> None:
    """It keeps the last 20 releases, in their order."""
    kept.put(1)
    for number in range(MOST_RELEASES + 3):
        kept.let_serve(1, batch=number + 1)

    assert [release.id for release in core.releases(kept.store, MODEL)] == [f"id-1-{number + 1}" for number in range(3, MOST_RELEASES + 3)]


def _journal(text: str, change: Callable[[dict[str, object]], object]) -> str:
    head, _, line = text.partition(JOURNAL)
    journal = json.loads(line)
    return f"{head}{JOURNAL}{json.dumps(change(journal))}\n"


@pytest.mark.parametrize(
    ("alter", "told"),
    [
        (lambda text: text.replace("versions: 2", "versions: 1"), "was edited by hand"),
        (lambda text: text.replace("versions: 2", "versions: [1, 2]"), "was edited by hand"),
        (lambda text: text.replace("specific", "latest").replace("versions: 2", "num_versions: 2"), "was edited by hand"),
        (lambda text: text[: text.index(JOURNAL) + len(JOURNAL) + 30], "its journal is damaged"),
        (lambda text: _journal(text, lambda _: []), "its journal is damaged"),
        (lambda text: _journal(text, lambda journal: {"layout": journal["layout"]}), "its journal is damaged"),
        (lambda text: _journal(text, lambda journal: {**journal, "releases": 5}), "its journal is damaged"),
        (lambda text: _journal(text, lambda journal: {**journal, "releases": [[]]}), "its journal is damaged"),
        (lambda text: _journal(text, lambda journal: {**journal, "releases": [{"config": None}]}), "its journal is damaged"),
        (lambda text: _journal(text, lambda journal: {**journal, "releases": []}), "its journal says nothing"),
        (lambda text: _journal(text, lambda journal: {**journal, "layout": LAYOUT + 1}), "upgrade airflow-provider-triton"),
        (lambda text: text.replace("max_batch_size: 8", "max_batch_size: eight"), "max_batch_size"),
        (lambda text: text.encode("utf-16").decode("latin-1"), "cannot be read"),
    ],
    ids=[
        "another version",
        "two versions",
        "another policy",
        "cut off",
        "a list",
        "no releases",
        "a number",
        "an empty row",
        "a row without version",
        "an empty journal",
        "newer layout",
        "no config",
        "no text",
    ],
)
def test_a_config_that_we_did_not_write_so_is_refused(kept: Kept, alter: Callable[[str], str], told: str) -> None:
    """Edited by hand, damaged or newer: RepositoryError that names the file; a commit over it is refused, and it stays as it is."""
    kept.deploy(1, 2)
    text = alter(kept.config().decode())
    kept.write("resnet/config.pbtxt", text.encode("latin-1"))
    before = kept.config()

    for call in (lambda: core.releases(kept.store, MODEL), lambda: kept.let_serve(1), lambda: core.prune(kept.store, MODEL, keep=0)):
        message = message_of(call, RepositoryError)
        assert told in message
        assert kept.where() in message
    assert kept.config() == before
    assert kept.store.versions(MODEL) == [1, 2]


# --- models of other people


@pytest.mark.parametrize("config", [True, False], ids=["config without journal", "versions without manifest"])
def test_a_foreign_model_is_listed_and_left_alone(kept: Kept, config: bool) -> None:  # noqa: FBT001
    """A model that we did not publish is listed with its versions; releases, storing, committing and pruning refuse it."""
    kept.write("resnet/4/model.onnx", b"by hand")
    if config:
        kept.write("resnet/config.pbtxt", 'backend: "onnxruntime"\n')
    before = kept.tree()

    for call in (
        lambda: core.releases(kept.store, MODEL),
        lambda: kept.put(4),
        lambda: kept.put(5),
        lambda: core.prune(kept.store, MODEL, keep=0),
    ):
        message = message_of(call, RepositoryError)
        assert "was not published by airflow-provider-triton" in message
        assert MODEL in message

    assert kept.store.models() == [MODEL]
    assert kept.store.versions(MODEL) == [4]
    assert kept.tree() == before
    assert kept.leftovers() == []


def test_candidates_are_no_models(kept: Kept) -> None:
    """A candidate lies in the repository, and is not listed; neither are files and what is no version."""
    kept.deploy(1)
    kept.write(f"{core.candidate_name(MODEL, 2, '0123456789abcdef')}/candidate.json", "{}")
    kept.write("notes.txt", "")
    kept.write("resnet/labels/1.txt", "")

    assert kept.store.models() == [MODEL]
    assert kept.store.versions(MODEL) == [1]


# --- names


@given(
    name=st.one_of(
        st.text(), st.from_regex(r"[./\\A-Za-z0-9_-]{1,9}"), st.sampled_from(["..", ".", "/", "a/../..", "a\0", "a\n", "-", "~"])
    )
)
def test_no_name_leaves_the_repository(name: str) -> None:
    """A name is refused, or it is one folder directly below the root, visible, and needs no quoting in a URL."""
    store = LocalRepository("/srv/models")
    try:
        folder = store.path(store.model_place(name))
    except RepositoryError:
        return

    assert Path(os.path.normpath(folder)).parent == store.root
    assert not folder.name.startswith(".")
    assert folder.name == name
    assert all(character.isascii() and (character.isalnum() or character in "_-.") for character in name)


@pytest.mark.parametrize("name", ["resnet", "resnet50", "a", "A.b_c-d", "1", "_x", "-x"])
def test_ordinary_names_are_accepted(name: str) -> None:
    """Letters, digits, `_`, `-` and `.`."""
    assert core.check_model_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a..b", "a/b", "../a", "a b", "é", "a\n", "a\0"])
def test_other_names_are_refused_by_every_verb(kept: Kept, name: str) -> None:
    """Before anything is written."""
    for call in (
        lambda: core.check_model_name(name),
        lambda: kept.store.versions(name),
        lambda: kept.store.read_config(name),
        lambda: core.releases(kept.store, name),
        lambda: kept.put(1, model=name),
        lambda: core.prune(kept.store, name, keep=0),
        lambda: core.candidate_name(name, 1, "id"),
        lambda: core.mode_probe(name),
    ):
        message_of(call, RepositoryError)
    assert kept.tree() == {}


# --- fsck


def _fsck(kept: Kept) -> dict[tuple[str, int | None], tuple[str, bool]]:
    return {(each.model, each.version): (each.role, not each.problems) for each in core.fsck(kept.store)}


def test_fsck_tells_damaged_from_whole_and_whom_it_hurts(kept: Kept) -> None:
    """Each version has its role and its state; foreign models are named, not judged; nothing changes."""
    kept.deploy(1, 2)
    kept.put(3)
    kept.deploy(1, model="other")
    kept.write("theirs/1/model.onnx", b"theirs")
    whole = {
        ("other", 1): ("serves", True),
        (MODEL, 1): ("kept", True),
        (MODEL, 2): ("serves", True),
        (MODEL, 3): ("unused", True),
        ("theirs", None): ("foreign", True),
    }
    assert _fsck(kept) == whole

    kept.delete("resnet/2/labels.txt")
    kept.write("resnet/1/deployment.json", "{")
    before = kept.tree()

    assert _fsck(kept) == {**whole, (MODEL, 1): ("kept", False), (MODEL, 2): ("serves", False)}
    assert kept.tree() == before


def test_fsck_finds_a_served_version_that_is_gone(kept: Kept) -> None:
    """A release whose version has no folder any more is a damage of what serves; a damaged journal is one of the model."""
    kept.deploy(1)
    kept.delete("resnet/1")
    assert _fsck(kept) == {(MODEL, 1): ("serves", False)}

    kept.deploy(1, model="other")
    kept.write("other/config.pbtxt", kept.config("other").replace(b'"releases"', b'"released"'))
    assert _fsck(kept)["other", None] == ("serves", False)


# --- the verbs


def _item(kept: Kept, path: str, content: bytes) -> Item:
    source = kept.folder / "sources" / uuid.uuid4().hex
    source.parent.mkdir(exist_ok=True)
    source.write_bytes(content)
    return Item(FileDigest(path=path, size=len(content), sha256=hashlib.sha256(content).hexdigest()), source)


def test_put_leaves_what_is_there_unless_it_may_replace(kept: Kept) -> None:
    """Without `replace` the second folder is refused and the first stays whole; with it, whatever else lay there is gone."""
    place = kept.store.version_place(MODEL, 1)
    assert kept.store.put(place, [_item(kept, "a", b"a"), _item(kept, "b/c", b"c")], first={"f": "f"}, last={"l": "l"})
    first = {"resnet/1/a": b"a", "resnet/1/b/c": b"c", "resnet/1/f": b"f", "resnet/1/l": b"l"}
    assert kept.files() == first

    assert not kept.store.put(place, [_item(kept, "a", b"other")], last={"l": "other"})
    assert kept.files() == first

    assert kept.store.put(place, [_item(kept, "a", b"other")], last={"l": "new"}, replace=True)
    assert kept.files() == {"resnet/1/a": b"other", "resnet/1/l": b"new"}
    assert kept.leftovers() == []


def test_what_is_stored_can_be_put_elsewhere_and_fetched(kept: Kept, tmp_path: Path) -> None:
    """Its content, digest and names stay; a file of no bytes and names that URLs quote are nothing special."""
    names = ["empty", "with space", "größe/%41 #+?.txt"]
    items = [_item(kept, name, b"" if name == "empty" else name.encode()) for name in names]
    waiting = kept.store.servable_place(MODEL, "abc")
    assert kept.store.put(waiting, [item.named(item.file.sha256) for item in items], last={"servable.json": "{}"})
    assert kept.store.servables(MODEL) == ["abc"]

    place = kept.store.version_place(MODEL, 1)
    kept.store.put(place, kept.store.items(waiting, [item.file for item in items], by_digest=True))

    assert kept.files() == {f"resnet/1/{name}": b"" if name == "empty" else name.encode() for name in names}
    assert [(file.path, file.size) for file in kept.store.files(place)] == sorted((item.file.path, item.file.size) for item in items)
    for number, item in enumerate(items):
        assert kept.store.sha256(place / item.file.path) == item.file.sha256
        kept.store.fetch(kept.store.origin(place / item.file.path), tmp_path / str(number))
        assert (tmp_path / str(number)).read_bytes() == (b"" if item.file.path == "empty" else item.file.path.encode())


def test_a_removed_folder_is_gone_and_may_come_back(kept: Kept) -> None:
    """It is not listed any more, what has a name that begins like its own stays, and removing nothing is fine."""
    for version in (1, 10):
        kept.put(version)
    rest = kept.files("resnet/10/")

    for _ in range(2):
        kept.store.remove(kept.store.version_place(MODEL, 1))
        assert kept.store.versions(MODEL) == [10]
        assert kept.files() == rest

    kept.put(1)
    assert kept.store.versions(MODEL) == [1, 10]
    assert kept.store.damage(MODEL, 1) == []
    kept.store.remove(kept.store.model_place(MODEL))
    assert kept.store.models() == []


def test_a_config_is_swapped_only_for_the_one_that_was_seen(kept: Kept) -> None:
    """Create, update and removal each need the etag of what is there; what does not fit changes nothing."""
    first = kept.store.swap_config(MODEL, "one", expected=None)
    assert kept.store.read_config(MODEL) == StoredConfig("one", str(first))
    for text, expected in (("other", None), ("other", "stale"), (None, None), (None, "stale")):
        message_of(lambda text=text, expected=expected: kept.store.swap_config(MODEL, text, expected=expected), ConflictError)  # type: ignore[misc]
    assert kept.config() == b"one"

    second = kept.store.swap_config(MODEL, "zwei: ü", expected=first)
    message_of(lambda: kept.store.swap_config(MODEL, "three", expected=first), ConflictError)
    assert kept.config() == "zwei: ü".encode()

    assert kept.store.swap_config(MODEL, None, expected=second) is None
    assert kept.store.read_config(MODEL) is None
    assert kept.leftovers() == []


def test_what_is_not_there_is_answered_and_no_error(kept: Kept, tmp_path: Path) -> None:
    """Folders and files of nothing are none, a file that is not there reads as None; one that is no text is an error that names it."""
    nowhere = kept.store.version_place("nobody", 7)
    assert kept.store.folders(nowhere) == []
    assert kept.store.files(nowhere) == []
    assert kept.store.read(nowhere / "x") is None

    kept.write("resnet/config.pbtxt", b"\xff\xfe")
    assert kept.where() in message_of(lambda: kept.store.read_config(MODEL), RepositoryError)


def test_staging_is_empty_and_goes(kept: Kept) -> None:
    """A folder on this machine, for the length of the block, even one that ends in an error."""
    with pytest.raises(ZeroDivisionError), kept.store.new_staging() as folder:  # noqa: PT012
        assert list(folder.iterdir()) == []
        (folder / "x").write_text("x")
        raise ZeroDivisionError
    assert not folder.exists()
    assert kept.leftovers() == []


def test_reading_makes_nothing(kept: Kept) -> None:
    """Looking at a repository that is not there leaves it not there."""
    assert kept.store.models() == []
    assert kept.store.versions(MODEL) == []
    assert kept.store.read_config(MODEL) is None
    assert kept.store.manifest(MODEL, 1) is None
    assert core.releases(kept.store, MODEL) == []
    assert kept.tree() == {}
    assert list(kept.folder.iterdir()) == []


# --- all models at once


def test_a_survey_finds_every_model_with_its_versions_and_releases(kept: Kept) -> None:
    """In the order of their names; candidates are none, and neither a foreign model nor a broken one hides the others."""
    kept.deploy(1, 2, 10)
    kept.deploy(3, model="bert")
    kept.put(4, model="bert")
    kept.write("theirs/1/model.onnx", b"x")
    kept.write("theirs/config.pbtxt", 'backend: "onnxruntime"')
    kept.write("broken/config.pbtxt", b"\xff")
    kept.write("resnet--candidate-5-abc/5/model.onnx", b"x")
    kept.write("resnet--candidate-5-abc/config.pbtxt", "")

    found = core.survey(kept.store)

    assert [(each.name, each.versions, [release.version for release in each.releases]) for each in found] == [
        ("bert", (3, 4), [3]),
        ("broken", (), []),
        ("resnet", (1, 2, 10), [1, 2, 10]),
        ("theirs", (1,), []),
    ]
    assert [bool(each.problem) for each in found] == [False, True, False, True]
    assert kept.where().replace("resnet", "broken") in str(found[1].problem)
    assert found == [core.stored_model(kept.store, each.name) for each in found]


def test_candidates_are_listed_by_their_model(kept: Kept) -> None:
    """Those of a model whose name begins like another's are not the other's, nor is what was removed."""
    for name in ("resnet--candidate-5-abc", "resnet--candidate-6-def", "resnet50--candidate-1-abc", "resnet"):
        kept.write(f"{name}/config.pbtxt", "")
    kept.delete("resnet--candidate-6-def")

    assert kept.store.candidates("resnet") == ["resnet--candidate-5-abc"]
    assert kept.store.candidates("resnet50") == ["resnet50--candidate-1-abc"]
    assert kept.store.candidates("bert") == []
