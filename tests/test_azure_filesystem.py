"""Azure storage, rehearsed on Azurite: stores, bundles and tables on ``abfs://``, and all that a network can do."""

import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiny
from azurite import Azurite
from helpers import InputError
from helpers.credentials import TOKEN_FILE
from helpers.model import bundle
from helpers.files import create, filesystem, write_whole
from helpers.scoring import score as scoring, table
from helpers.tiles import store as tilestore
from helpers.uri import join
from helpers.scoring.table import read, summary
from helpers.tiles.folder import write_images
from servers import winners

TILES = 90


@pytest.fixture(scope="module")
def azure(tmp_path_factory):
    running = Azurite(tmp_path_factory.mktemp("azurite"))
    for name in ("tutorial", "other"):
        running.container(name)
    yield running
    running.close()


@pytest.fixture(autouse=True)
def connected(azure, nobody, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure.connection_string)
    yield
    azure.proxy.fault = None
    azure.proxy.faults.clear()
    azure.proxy.requests.clear()


@pytest.fixture
def uri(request):
    """A folder of this test's own."""
    return f"abfs://tutorial/{request.node.name.split('[')[0]}-{time.monotonic_ns()}"


@pytest.fixture
def pictures(tmp_path):
    tiny.pictures(tmp_path / "pile", range(TILES))
    return tmp_path / "pile"


def once(fault, method, part):
    """A fault of the first request of a kind; ``times`` of them."""
    return times(1, fault, method, part)


def times(count, fault, method, part):
    left = [count]

    def decide(its_method, path):
        if its_method == method and part in path and left[0]:
            left[0] -= 1
            return fault
    return decide


def test_a_store_is_the_same_as_on_a_disk(uri, pictures, tmp_path):
    write_images(pictures, str(tmp_path / "tiles"))
    write_images(pictures, uri)
    there, here = tilestore.read(uri), tilestore.read(str(tmp_path / "tiles"))
    assert there.equals(here) and len(there) == TILES
    assert tilestore.partitions(uri) == tilestore.partitions(str(tmp_path / "tiles"))
    listed = [tilestore.files(at, tilestore.partitions(at)[0])[0] for at in (uri, str(tmp_path / "tiles"))]
    assert listed[0][0]["pictures"] == listed[1][0]["pictures"] and listed[0][0]["name"] == listed[1][0]["name"]
    assert list(tilestore.read(uri, columns=["tile_id"])) == ["tile_id"]
    tilestore.remove_manifest(uri, "pile", 0)
    with pytest.raises(InputError, match="got no finished county and year there"):
        tilestore.partitions(uri)


def test_a_bundle_goes_there_and_back(uri, model, monkeypatch, tmp_path):
    monkeypatch.setenv("TUTORIAL_HOME", str(tmp_path))
    with pytest.raises(InputError, match="expected a model bundle at abfs://tutorial/.*, got no model.json there"):
        bundle.load(uri)
    bundle.upload(model, uri)
    back = bundle.load(uri)
    assert back.checksum == model.checksum and back.folder != model.folder


def score(spark, uri, model, **options):
    rows = scoring.score(spark, uri + "/tiles", model, uri + "/table", **options)
    table = read(uri + "/table")
    assert rows == len(table) and table["tile_id"].is_unique
    return summary(uri + "/table")["scored_now"], table


def parquet(uri):
    """Names of the Parquet files below a URI, without their ending."""
    system, path = filesystem(uri)
    return sorted(name[len(path) + 1:-len(".parquet")] for name in system.find(path) if name.endswith(".parquet"))


def test_executors_read_and_write_there(spark, uri, pictures, model, tmp_path):
    """The same rows as on a disk; what is done stays done; what is new or changed is scored."""
    write_images(pictures, uri + "/tiles")
    write_images(pictures, str(tmp_path / "tiles"))
    scored, table = score(spark, uri, model)
    scoring.score(spark, str(tmp_path / "tiles"), model, str(tmp_path / "table"))
    here = read(str(tmp_path / "table"))
    assert scored == TILES
    assert table.drop(columns="probabilities").equals(here.drop(columns="probabilities"))
    assert table["probabilities"].map(list).tolist() == here["probabilities"].map(list).tolist()
    assert score(spark, uri, model)[0] == 0
    (pictures / "00011.png").write_bytes(tiny.picture(5000))
    (pictures / "00012.png").unlink()
    write_images(pictures, uri + "/tiles")
    scored, changed = score(spark, uri, model)
    assert 0 < scored < TILES and len(changed) == TILES - 1 and "00012.png" not in set(changed["tile_id"])
    assert parquet(uri + "/table") == summary(uri + "/table")["units"]


@pytest.mark.parametrize("what", ["end", "page"])
def test_a_damaged_file_stops_no_other_tile(spark, uri, pictures, model, what):
    """As on a disk: the others have their rows, it is named, and written again it is scored."""
    write_images(pictures, uri + "/tiles")
    system, root = filesystem(uri + "/tiles")
    victim = parquet(uri + "/tiles")[1] + ".parquet"
    kept = system.cat_file(join(root, victim))
    group = pq.ParquetFile(pa.BufferReader(kept)).metadata.row_group(0)
    column = next(group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == "image")
    position = len(kept) - 4 if what == "end" else column.dictionary_page_offset or column.data_page_offset
    system.pipe_file(join(root, victim), kept[:position] + b"\xff" * 40 + kept[position + 40:])
    for _ in range(2):
        with pytest.raises(InputError, match="expected the files of the tile store .* to be unchanged, got 1 damaged: "
                                             f"{victim}. All other tiles have their row"):
            scoring.score(spark, uri + "/tiles", model, uri + "/table")
    system.pipe_file(join(root, victim), kept)
    assert score(spark, uri, model)[0] == group.num_rows


@pytest.mark.parametrize("what", ["gone", "page"])
def test_a_damaged_file_of_the_table_is_named(spark, uri, pictures, model, what):
    write_images(pictures, uri + "/tiles")
    score(spark, uri, model)
    system, root = filesystem(uri + "/table")
    name = parquet(uri + "/table")[0] + ".parquet"
    content = system.cat_file(join(root, name))
    if what == "page":
        system.pipe_file(join(root, name), content[:4] + b"\xff" * 40 + content[44:])
        with pytest.raises(InputError, match=f"but {name.rpartition('/')[2]} is missing or damaged. Delete it and run"):
            read(uri + "/table")
    system.rm(join(root, name))
    with pytest.raises(InputError, match="is missing or damaged. Delete it and run"):
        read(uri + "/table")
    assert 0 < score(spark, uri, model)[0] < TILES


@pytest.mark.parametrize("way", ["variable", "file"])
def test_a_job_with_nothing_but_a_token(spark, azure, uri, pictures, model, monkeypatch, tmp_path, way):
    """As on HDInsight: bundle, tiles and table by the token of the environment, or of a file that is renewed."""
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    monkeypatch.setenv("AZURE_STORAGE_SERVICE_ENDPOINT", azure.endpoint)
    monkeypatch.setenv("TUTORIAL_HOME", str(tmp_path))
    kept, token = tmp_path / "token", azure.token("tutorial", 30)
    full = uri.replace("tutorial/", "tutorial@account.dfs.core.windows.net/")
    if way == "variable":
        monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", token)
    else:
        kept.touch(0o600)
        kept.write_text(azure.token("tutorial", -5) + "\n")
        monkeypatch.setenv(TOKEN_FILE, str(kept))
        with pytest.raises(InputError, match="got one that expired at"):
            bundle.upload(model, full + "/model")
        kept.write_text(token + "\n")
    bundle.upload(model, full + "/model")
    write_images(pictures, full + "/tiles")
    scored, table = score(spark, full, bundle.load(full + "/model"))
    assert scored == len(table) == TILES and table["error_kind"].isna().all()
    other = full.replace("tutorial@", "other@")
    with pytest.raises(InputError, match="expected to be allowed to use"):
        score(spark, other, model)


def test_throttling_is_waited_for_as_long_as_asked(azure, uri):
    write_whole(uri + "/note", b"content")
    system, path = filesystem(uri + "/note")
    azure.proxy.requests.clear()
    azure.proxy.fault = times(2, "busy", "GET", "/note")
    assert system.cat_file(path) == b"content" and azure.proxy.faults == ["busy", "busy"]
    moments = [moment for method, name, moment in azure.proxy.requests if "/note" in name]
    # The proxy asked for one second; without being asked the first wait would be half of it.
    assert len(moments) == 3 and all(later - earlier > 0.95 for earlier, later in zip(moments, moments[1:]))


def test_throttling_without_end_is_one_sentence(azure, uri, monkeypatch):
    monkeypatch.setattr("helpers.azure_filesystem.TRIES", 2)
    azure.proxy.fault = lambda method, path: "busy"
    with pytest.raises(InputError, match=r"expected an answer from 127.0.0.1:\d+/devstoreaccount1/tutorial within 2 "
                                         r"tries, got 503 ServerBusy\. Run the same command again"):
        filesystem(uri)[0].cat_file("tutorial/note")
    with pytest.raises(InputError, match="within 2 tries"):
        tilestore.partitions(uri)
    azure.proxy.fault, azure.proxy.faults[2:] = None, []
    assert len(azure.proxy.faults) == 2


@pytest.mark.parametrize("fault", ["cut", "drop", "busy"])
def test_a_connection_that_fails_in_mid_job_loses_no_tile(spark, azure, uri, pictures, model, fault):
    """The first three reads of the store's files, and the first three files written."""
    write_images(pictures, uri + "/tiles")
    reads, writes = (times(3, fault, "GET", "/tiles/county=pile/year=0/"),
                     times(3, "drop" if fault == "cut" else fault, "PUT", "/table/county=pile/"))
    azure.proxy.fault = lambda method, path: reads(method, path) or writes(method, path)
    scored, table = score(spark, uri, model)
    assert scored == len(table) == TILES and table["error_kind"].isna().all()
    assert len(azure.proxy.faults) == 6


def test_a_connection_that_is_always_cut_is_one_sentence(azure, uri, monkeypatch):
    write_whole(uri + "/note", b"content" * 1000)
    monkeypatch.setattr("helpers.azure_filesystem.TRIES", 2)
    azure.proxy.fault = times(100, "cut", "GET", "/note")
    system, path = filesystem(uri + "/note")
    with pytest.raises(InputError, match="expected an answer from .* within 2 tries, got "):
        system.cat_file(path)


def test_an_expired_token_is_one_sentence_without_it(spark, azure, uri, pictures, model, monkeypatch):
    write_images(pictures, uri + "/tiles")
    good, expired = azure.with_token("tutorial", 30), azure.with_token("tutorial", -5)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", good)
    assert len(tilestore.read(uri + "/tiles")) == TILES
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", expired)
    with pytest.raises(InputError, match=r"expected a token that is valid for .*, got one that expired at "
                                         r"2\d\d\d-") as told:
        scoring.score(spark, uri + "/tiles", model, uri + "/table")
    signature = expired.split("sig=")[1][:20]
    assert signature not in str(told.value) and "sig=" not in str(told.value) and "\n" not in str(told.value)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure.with_token("other", 30))
    with pytest.raises(InputError, match="expected to be allowed to use .*/tutorial, got 403"):
        tilestore.read(uri + "/tiles")


def test_a_token_that_expires_in_mid_job_keeps_what_is_done(spark, azure, uri, pictures, model, monkeypatch):
    """Seen by the workers, who are told of it by the driver's own sentence; with a new one the job goes on."""
    write_images(pictures, uri + "/tiles")
    units, _ = scoring.units(uri + "/tiles", tilestore.partitions(uri + "/tiles"), model.checksum, "onnxruntime")
    expired, late = azure.with_token("tutorial", -5), list(units)[1:]
    plain = scoring.score_unit

    def with_a_token_that_expires(unit, **options):
        import os
        if unit["uri"] in gone:
            os.environ["AZURE_STORAGE_CONNECTION_STRING"] = expired
        return plain(unit, **options)

    gone = {units[name]["uri"] for name in late}
    monkeypatch.setattr(scoring, "score_unit", with_a_token_that_expires)
    with pytest.raises(InputError, match="expected a token that is valid for .*, got one that expired"):
        scoring.score(spark, uri + "/tiles", model, uri + "/table", tasks=1)
    monkeypatch.undo()
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure.connection_string)
    done = parquet(uri + "/table")
    assert 0 < len(done) < len(units)
    assert score(spark, uri, model)[0] == TILES - sum(units[name]["tiles"] for name in done)


def test_a_container_that_is_not_there_is_one_sentence(model):
    for act in (lambda: tilestore.read("abfs://nowhere/tiles"), lambda: bundle.load("abfs://nowhere/model"),
                lambda: read("abfs://nowhere/table"), lambda: bundle.upload(model, "abfs://nowhere/model"),
                lambda: tilestore.write_manifest("abfs://nowhere/tiles", "pile", 0, tiles=1)):
        with pytest.raises(InputError, match="expected a container at .*/nowhere, got none of this name. Create it"):
            act()


def test_one_of_many_creates_a_file(uri):
    (winner,) = winners(lambda number: create(uri + "/_table.json", str(number).encode()))
    system, path = filesystem(uri + "/_table.json")
    assert system.cat_file(path) == str(winner).encode()


def test_an_answer_that_got_lost_is_no_other_job(azure, uri):
    """The table was begun, the connection died before the answer: the second try meets the job's own file."""
    lost = []

    def fault(method, path):
        if method == "PUT" and "_table.json" in path and not lost:
            lost.append(path)
            return "lost"
        return None

    azure.proxy.fault = fault
    table.begin(uri, "m", "e", ["a"])
    assert azure.proxy.faults == ["lost"]
    table.begin(uri, "m", "e", ["a"])
    with pytest.raises(InputError, match="got one of model m and engine e"):
        table.begin(uri, "m", "another", ["a"])
