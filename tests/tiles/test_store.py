"""The store: what is finished, what its files say of themselves, and what training draws from it."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiny
from helpers import DamagedFile, InputError
from helpers.cluster import work
from helpers.scoring import score, table
from helpers.tiles import store
from helpers.tiles.folder import write_images


@pytest.mark.parametrize("call", [
    lambda uri: store.partitions(uri), lambda uri: store.manifest(uri, "a", 1, ["crs"])])
def test_a_store_is_named_without_its_secret(call):
    with pytest.raises(InputError) as told:
        call("memory://a/tiles?sig=SECRET")
    assert "SECRET" not in str(told.value) and "memory://a/tiles" in str(told.value)


def test_reading_what_is_not_there(folder, tmp_path):
    with pytest.raises(InputError, match="no finished county and year"):
        store.read(tmp_path / "nothing")
    write_images(folder, str(tmp_path / "store"))
    with pytest.raises(InputError, match=r"tiles of year 2010 in .*photos 0"):
        store.read(tmp_path / "store", year=2010)


def test_a_manifest_that_lacks_what_is_needed(folder, tmp_path):
    uri = str(tmp_path / "store")
    assert store.manifest(uri, "photos", 0) is None
    with pytest.raises(InputError, match="expected crs in .*year=0/_manifest.json, got no such file. Prepare"):
        store.manifest(uri, "photos", 0, required=["crs"])
    write_images(folder, uri)
    with pytest.raises(InputError, match="expected tiles, crs in .*, got none of crs. Add them"):
        store.manifest(uri, "photos", 0, required=["tiles", "crs"])


def test_a_year_as_text_is_refused(own):
    """The text "0" would pass for the year of pictures on a grid, and no number would find the year "2010"."""
    path = own.folder / store.MANIFEST
    path.write_text(path.read_text().replace(": 2010", ': "2010"'))
    with pytest.raises(InputError, match="expected a manifest .*, got one with other kinds of values"):
        store.partitions(own.uri)


@pytest.fixture
def own(tmp_path):
    """A store of somebody's own: 90 tiles in three files of two row groups each, in order of their names."""
    return Own(str(tmp_path / "own"))


class Own:
    def __init__(self, uri):
        self.uri, self.folder = uri, Path(store.partition_folder(uri, "99001", 2010))
        self.folder.mkdir(parents=True)
        for i in range(3):
            self.write(f"part-{i}.parquet", range(30 * i, 30 * i + 30))
        store.write_manifest(uri, "99001", 2010, tiles=90)

    def write(self, name, numbers, **changed):
        columns = {"tile_id": [f"{i:03d}" for i in numbers], "image": [b"picture %d" % i for i in numbers], **changed}
        pq.write_table(pa.table(columns), self.folder / name, row_group_size=15)

    def files(self, **facts):
        if facts:
            store.write_manifest(self.uri, "99001", 2010, **{"tiles": 90, **facts})
        return store.files(self.uri, store.manifest(self.uri, "99001", 2010))


def test_the_files_of_a_store_of_ones_own(own, monkeypatch):
    """Any Parquet with the two columns; of names in order nothing but footers is read."""
    monkeypatch.setattr(store, "_ids", lambda *_: pytest.fail("a column was read"))
    files, damaged = own.files()
    assert not damaged and [(one["name"], one["rows"], one["pictures"]) for one in files] == [
        (f"part-{i}.parquet", [15, 15], None) for i in range(3)]
    assert all(one["uri"] == str(own.folder / one["name"]) and min(one["bytes"]) > 0 for one in files)
    before = files[1]["changed"]
    own.write("part-1.parquet", range(30, 60))
    after = own.files()[0]
    assert after[1]["changed"] != before and after[0] == files[0]


def test_other_files_of_the_folder_are_no_part_of_a_store_whose_manifest_names_its_own(own):
    own.write("another.parquet", range(10))
    with pytest.raises(InputError, match="expected 90 tiles of county 99001, year 2010 in .*, as its _manifest.json "
                                         "says, got 100. Write its tiles again"):
        own.files()
    names = [f"part-{i}.parquet" for i in range(3)]
    files, damaged = own.files(files=names)
    assert [one["name"] for one in files] == names and not damaged
    assert len(store.read(own.uri, columns=["tile_id"])) == 90


@pytest.mark.parametrize("damage", ["gone", "cut", "empty"])
def test_damaged_files_are_listed_apart(own, damage):
    path = own.folder / "part-1.parquet"
    content = path.read_bytes()
    path.unlink() if damage == "gone" else path.write_bytes(content[:-100] if damage == "cut" else b"")
    files, damaged = own.files(files=[f"part-{i}.parquet" for i in range(3)])
    assert damaged == ["county=99001/year=2010/part-1.parquet"]
    assert [one["name"] for one in files] == ["part-0.parquet", "part-2.parquet"]
    if damage != "gone":  # Without a list in the manifest, nobody misses a file.
        with pytest.raises(DamagedFile, match="expected the files of .*/year=2010 to be unchanged, but a file is"):
            store.read(own.uri, columns=["tile_id"])


@pytest.mark.parametrize("changed, got", [
    ({"tile_id": list(range(30))}, r"tile_id \(INT64 NONE\), image"),
    ({"image": ["text"] * 30}, r"image \(BYTE_ARRAY STRING\)")])
def test_columns_that_scoring_cannot_use(own, changed, got):
    own.write("part-1.parquet", range(30, 60), **changed)
    with pytest.raises(InputError, match=r"expected columns tile_id \(string\) and image \(binary\) in "
                                         rf".*part-1.parquet, got .*{got}"):
        own.files()


def test_a_tile_that_is_there_twice_is_refused(own, monkeypatch):
    read, really = [], store._ids
    monkeypatch.setattr(store, "_ids", lambda asked: read.append(asked) or really(asked))
    # Ranges that overlap are no fault: their ids are compared.
    own.write("part-1.parquet", [29, *range(31, 60)])
    own.write("part-0.parquet", [*range(29), 30])
    assert len(own.files()[0]) == 3
    assert sorted((Path(uri).name, groups) for uri, groups in read) == [("part-0.parquet", {1}), ("part-1.parquet", {0})]
    own.write("part-0.parquet", [*range(29), 44])
    with pytest.raises(InputError, match="expected one tile of each name in the store .*, got 044 twice in county 99001, "
                                         "year 2010. Write its tiles again"):
        own.files()


def test_ids_without_statistics_are_read(own):
    table = pa.concat_tables([pq.read_table(path, partitioning=None) for path in sorted(own.folder.glob("*.parquet"))])
    for path in own.folder.glob("*.parquet"):
        path.unlink()
    pq.write_table(table.take([*range(89), 3]), own.folder / "all.parquet", row_group_size=15, write_statistics=False)
    with pytest.raises(InputError, match="got 003 twice"):
        own.files()


def test_a_copy_of_one_of_our_files_is_refused(folder, tmp_path):
    uri = str(tmp_path / "store")
    write_images(folder, uri)
    part = store.manifest(uri, "photos", 0)
    inside = tmp_path / "store" / "county=photos" / "year=0"
    shutil.copy(inside / part["files"][0], inside / "copy.parquet")
    assert len(store.files(uri, part)[0]) == 1 and len(store.read(uri)) == 20
    store.write_manifest(uri, "photos", 0, tiles=40)
    with pytest.raises(InputError, match="got city/0.png twice in county photos"):
        store.files(uri, store.manifest(uri, "photos", 0))


def test_a_changed_picture_changes_the_digest(tmp_path):
    tiny.pictures(tmp_path / "pile", range(3))
    digests = []
    for content in (None, tiny.picture(2)):
        if content:
            (tmp_path / "pile" / "00001.png").write_bytes(content)
        write_images(tmp_path / "pile", str(tmp_path / "store"))
        (one,), _ = store.files(str(tmp_path / "store"), store.partitions(tmp_path / "store")[0])
        digests.append(one["pictures"])
    assert digests[0] != digests[1]


def test_a_file_of_several_row_groups_knows_the_pictures_of_each(tmp_path):
    """So that scoring has units of its own size, whatever the size of preparation's."""
    tiny.pictures(tmp_path / "pile", range(9))
    write_images(tmp_path / "pile", str(tmp_path / "store"))
    rows = store.read(str(tmp_path / "store"))[store.SCHEMA.names]
    table = pa.Table.from_pandas(rows, store.SCHEMA, preserve_index=False)
    facts = store.facts_of(table, 4)
    folder = store.partition_folder(str(tmp_path / "other"), "pile", 0)
    work.write(table, facts, folder, "0" * 20)
    store.write_manifest(str(tmp_path / "other"), "pile", 0, tiles=9, files=["0" * 20 + ".parquet"])
    (one,), _ = store.files(str(tmp_path / "other"), store.partitions(tmp_path / "other")[0])
    assert one["rows"] == [4, 4, 1] and one["pictures"] == facts["pictures"] and len(set(one["pictures"])) == 3


def test_training_draws_the_same_number_of_pure_tiles_of_each_class(folder, tmp_path):
    write_images(folder, str(tmp_path / "store"))
    frame = store.read(tmp_path / "store", split="train")
    frame.loc[frame.index[:3], "purity"] = 0.89
    drawn = store.balanced(store.pure(frame, ("city", "sea")), seed=0)
    assert drawn["label"].value_counts().to_dict() == {0: 5, 1: 5}
    assert (drawn["purity"] >= store.PURE).all()
    drawn = store.balanced(store.pure(frame, ("city", "sea")), seed=0, per_class=7)
    assert drawn["label"].value_counts().to_dict() == {0: 7, 1: 7}
    # The rarer class gives all its five, two of them twice; the other one none twice.
    assert drawn.groupby("label")["tile_id"].value_counts().groupby("label").apply(sorted).to_dict() == {
        0: [1, 1, 1, 2, 2], 1: [1] * 7}
    with pytest.raises(InputError, match="got none of forest"):
        store.pure(frame, ("city", "sea", "forest"))


ODD_NAMES = ["a b", "my%20tiles", "tiles [2020]", "{a,b}", "a*", "a?b", "a#b", "back\\slash", "chained::name", "Größe 東京"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_is_neither_a_pattern_nor_an_escape(folder, tmp_path, name):
    """A store and a table in a folder of any name; a neighbour that a pattern would match is left alone."""
    model, here, neighbour = tiny.model(tmp_path / "model"), tmp_path / name, tmp_path / "tiles 2"
    for uri in (neighbour, here):
        write_images(folder, str(uri / "store"))
    assert len(store.partitions(str(here / "store"))) == 1 and len(store.read(str(here / "store"))) == 20
    units, damaged = score.units(str(here / "store"), store.partitions(str(here / "store")), model.checksum, "onnxruntime")
    uri = str(here / "table")
    table.begin(uri, model.checksum, "onnxruntime", model.classes)
    for unit in units:
        work.write(pa.table({"tile_id": ["a"]}), {}, uri, unit)
    assert work.names(uri) == set(units) and not damaged
    table.finish(uri, {"units": []}, {unit.rpartition("/")[0] for unit in units})
    assert not work.names(uri)
    table.remove(uri)
    store.keep_only(str(here / "store"), [])
    assert not list(here.rglob("_*.json")) and len(store.partitions(str(neighbour / "store"))) == 1


def test_facts_of_another_program_in_a_footer_are_none(own):
    for unit in ("metres", "[" * 100_000, "[1]"):
        pq.write_table(pq.read_table(own.folder / "part-1.parquet", partitioning=None).replace_schema_metadata(
            {"unit": unit}), own.folder / "part-1.parquet")
        assert [file["pictures"] for file in own.files()[0]] == [None] * 3


def test_a_folder_that_is_named_as_a_file_is_none(own):
    (own.folder / "part-3.parquet").mkdir()
    assert len(own.files()[0]) == 3
    assert own.files(files=["part-3.parquet"]) == ([], ["county=99001/year=2010/part-3.parquet"])


def test_rows_without_a_tile_id_are_refused(own):
    own.write("part-1.parquet", range(30, 60), tile_id=[None] + [f"{i:03d}" for i in range(31, 60)])
    with pytest.raises(InputError, match="expected a tile_id in every row of .*part-1.parquet, got rows without one"):
        own.files()


def test_a_file_that_may_hold_a_picture_once_for_many_tiles_says_so(own):
    own.write("part-1.parquet", range(30, 60), image=[b"the same"] * 30)
    pq.write_table(pq.read_table(own.folder / "part-2.parquet"), own.folder / "part-2.parquet", use_dictionary=False)
    assert [file["dictionary"] for file in own.files()[0]] == [True, True, False]
