"""Azure storage, rehearsed on Azurite: stores, bundles and tables on ``abfs://``, and all that a network can do."""

import json
import re
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiny
from azurite import Azurite
from helpers import InputError, files as storage
from helpers.azure import CREDENTIALS, TOKEN_FILE
from helpers.cluster import session
from helpers.model import bundle
from helpers.scoring import predictions, score as scoring
from helpers.tiles import store as tilestore
from helpers.uri import join
from helpers.scoring.table import read, summary
from helpers.tiles.folder import write_images

TILES = 90


@pytest.fixture(scope="module")
def azure(tmp_path_factory):
    running = Azurite(tmp_path_factory.mktemp("azurite"))
    for name in ("tutorial", "other"):
        running.container(name)
    yield running
    running.close()


@pytest.fixture(autouse=True)
def connected(azure, monkeypatch):
    for name in CREDENTIALS + (TOKEN_FILE,):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure.connection_string)
    yield
    azure.proxy.fault = None
    azure.proxy.faults.clear()
    azure.proxy.requests.clear()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.model(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture
def uri(request):
    """A folder of this test's own."""
    return f"abfs://tutorial/{request.node.name.split('[')[0]}-{time.monotonic_ns()}"


@pytest.fixture
def pictures(tmp_path):
    tiny.pictures(tmp_path / "place", range(TILES))
    return tmp_path / "place"


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
    assert tilestore.size(uri) == tilestore.size(str(tmp_path / "tiles"))
    assert list(tilestore.read(uri, columns=["tile_id"])) == ["tile_id"]
    tilestore.remove_manifest(uri, "place", 0)
    with pytest.raises(InputError, match="got no finished county and year there"):
        tilestore.partitions(uri)


def test_a_bundle_goes_there_and_back(uri, model, monkeypatch, tmp_path):
    monkeypatch.setenv("TUTORIAL_HOME", str(tmp_path))
    with pytest.raises(InputError, match="expected a model bundle at abfs://tutorial/.*, got nothing there"):
        bundle.load(uri)
    bundle.upload(model, uri)
    back = bundle.load(uri)
    assert back.checksum == model.checksum and back.folder != model.folder


def score(spark, uri, model, **options):
    rows = scoring.score(spark, uri + "/tiles", model, uri + "/table", **dict({"chunk_tiles": 40}, **options))
    table = read(uri + "/table")
    assert rows == len(table) and table["tile_id"].is_unique
    return summary(uri + "/table")["scored_now"], table


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
    tiny.pictures(pictures, range(TILES, TILES + 7))
    (pictures / "00011.png").write_bytes(tiny.picture(5000))
    (pictures / "00012.png").unlink()
    write_images(pictures, uri + "/tiles")
    scored, changed = score(spark, uri, model)
    assert scored == 8 and len(changed) == TILES + 6 and "00012.png" not in set(changed["tile_id"])
    kept = predictions.Table(uri + "/table")
    assert {name for chunk in kept.state()["chunks"] for name in chunk["files"]} == set(kept.files())


@pytest.mark.parametrize("what", ["end", "page"])
def test_a_damaged_file_stops_no_other_tile(spark, uri, pictures, model, what):
    """As on a disk: the others have their rows, it is named, and written again it is scored."""
    write_images(pictures, uri + "/tiles")
    system, folder = storage.filesystem(tilestore.partition_folder(uri + "/tiles", "place", 0))
    whole, = (path for path in system.ls(folder, detail=False) if path.endswith(".parquet"))
    table = pq.read_table(pa.BufferReader(system.cat_file(whole)))
    system.rm(whole)
    for number in range(3):
        sink = pa.BufferOutputStream()
        pq.write_table(table.slice(TILES // 3 * number, TILES // 3), sink)
        kept = sink.getvalue().to_pybytes()
        if number == 2:
            group = pq.ParquetFile(pa.BufferReader(kept)).metadata.row_group(0)
            column = next(group.column(i) for i in range(group.num_columns)
                          if group.column(i).path_in_schema == "image")
            place = len(kept) - 4 if what == "end" else column.dictionary_page_offset or column.data_page_offset
            system.pipe_file(join(folder, "part-2.parquet"), kept[:place] + b"\xff" * 40 + kept[place + 40:])
        else:
            system.pipe_file(join(folder, f"part-{number}.parquet"), kept)
    for _ in range(2):
        with pytest.raises(InputError, match="expected every file of the tile store .* got 1 damaged: "
                                             "county=place/year=0/part-2.parquet. All other tiles have their row"):
            scoring.score(spark, uri + "/tiles", model, uri + "/table", chunk_tiles=40)
        half = predictions.Table(uri + "/table")
        rows = half.rows([name for chunk in half.state()["chunks"] for name in chunk["files"]])
        assert sorted(rows["tile_id"]) == sorted(table.column("tile_id").to_pylist()[:TILES // 3 * 2])
    system.pipe_file(join(folder, "part-2.parquet"), kept)
    assert score(spark, uri, model)[0] == TILES // 3


@pytest.mark.parametrize("what", ["gone", "page"])
def test_a_damaged_file_of_the_table_is_no_reason_to_score_its_tiles_again(spark, uri, pictures, model, what):
    write_images(pictures, uri + "/tiles")
    score(spark, uri, model)
    table = predictions.Table(uri + "/table")
    before, name = table.state()["chunks"], table.state()["chunks"][0]["files"][0]
    content = table.filesystem.cat_file(table.path(name))
    if what == "gone":
        table.filesystem.rm(table.path(name))
    else:
        table.filesystem.pipe_file(table.path(name), content[:4] + b"\xff" * 40 + content[44:])
    tiny.pictures(pictures, [TILES])
    write_images(pictures, uri + "/tiles")
    with pytest.raises(InputError, match="expected every file of the prediction table .* gone or damaged"):
        scoring.score(spark, uri + "/tiles", model, uri + "/table")
    assert table.state()["chunks"] == before


def test_a_storage_that_refuses_is_not_damaged(spark, azure, uri, pictures, monkeypatch):
    """While what can't be read of a damaged file is left out, a refusal is still told."""
    write_images(pictures, uri + "/tiles")
    system, folder = storage.filesystem(tilestore.partition_folder(uri + "/tiles", "place", 0))
    path, = (path for path in system.ls(folder, detail=False) if path.endswith(".parquet"))
    files = [{"uri": "abfs://" + path, "size": system.size(path), "constants": {}}]

    def count(**options):
        return storage.read_parquet(spark, files, "tile_id string", **options).count()

    with session.local_property(spark, storage.IGNORE_DAMAGED, "true"):
        assert count(may_lack=True) == TILES
        with monkeypatch.context() as patch:
            key = re.search("AccountKey=([^;]+)", azure.connection_string).group(1)
            other = key[::-1].strip("=") + "=="
            patch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure.connection_string.replace(key, other))
            with pytest.raises(Exception, match="expected to be allowed to use"):
                count(may_lack=True)
        system.pipe_file(path, b"PAR1 no more")
        assert count(may_lack=True) == 0
        with pytest.raises(Exception, match=storage.AS_IT_WAS):
            count()


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


def test_parts_of_a_file_that_a_chunk_has_no_use_for_are_not_read(spark, uri, pictures):
    write_images(pictures, uri)
    frame, name = tilestore.read(uri), uri + "/county=place/year=0/part-0.parquet"
    with storage.writing(name) as file:
        pq.write_table(pa.Table.from_pandas(frame[tilestore.SCHEMA.names], tilestore.SCHEMA, preserve_index=False),
                       file, row_group_size=10)
    size = tilestore.size(uri)[1]
    files = [{"uri": name, "size": size, "between": ("tile_id", "00000.png", "00009.png"),
              "constants": {"county": "place", "year": 0}}]
    rows = storage.read_parquet(spark, files, scoring.TILE_TYPE, size // 4).collect()
    assert sorted(row["tile_id"] for row in rows) == [f"{n:05d}.png" for n in range(10)]
    del files[0]["between"]
    rows = storage.read_parquet(spark, files, scoring.KEY_TYPE, size // 7).collect()
    assert len(rows) == len({row["tile_id"] for row in rows}) == TILES


def test_throttling_is_waited_for_as_long_as_asked(azure, uri):
    with storage.writing(uri + "/note") as file:
        file.write(b"content")
    system, path = storage.filesystem(uri + "/note")
    azure.proxy.requests.clear()
    azure.proxy.fault = times(2, "busy", "GET", "/note")
    assert system.cat_file(path) == b"content" and azure.proxy.faults == ["busy", "busy"]
    moments = [moment for method, name, moment in azure.proxy.requests if "/note" in name]
    # The proxy asked for one second; without being asked the first wait would be half of it.
    assert len(moments) == 3 and all(later - earlier > 0.95 for earlier, later in zip(moments, moments[1:]))


def test_throttling_without_end_is_one_sentence(azure, uri, monkeypatch):
    monkeypatch.setattr(storage, "TRIES", 2)
    azure.proxy.fault = lambda method, path: "busy"
    with pytest.raises(InputError, match=r"expected an answer from 127.0.0.1:\d+/devstoreaccount1/tutorial within 2 "
                                         r"tries, got 503 ServerBusy\. Run the same again"):
        storage.filesystem(uri)[0].cat_file("tutorial/note")
    with pytest.raises(InputError, match="within 2 tries"):
        tilestore.partitions(uri)
    azure.proxy.fault, azure.proxy.faults[2:] = None, []
    assert len(azure.proxy.faults) == 2


@pytest.mark.parametrize("fault", ["cut", "drop", "busy"])
def test_a_connection_that_fails_in_mid_job_loses_no_tile(spark, azure, uri, pictures, model, fault):
    """The first three reads of the store's file, and the first three files written."""
    write_images(pictures, uri + "/tiles")
    reads, writes = (times(3, fault, "GET", "part-0.parquet"),
                     times(3, "drop" if fault == "cut" else fault, "PUT", "/table/chunk-"))
    azure.proxy.fault = lambda method, path: reads(method, path) or writes(method, path)
    scored, table = score(spark, uri, model)
    assert scored == len(table) == TILES and table["error_kind"].isna().all()
    assert len(azure.proxy.faults) == 6


def test_a_connection_that_is_always_cut_is_one_sentence(azure, uri, monkeypatch):
    with storage.writing(uri + "/note") as file:
        file.write(b"content" * 1000)
    monkeypatch.setattr(storage, "TRIES", 2)
    azure.proxy.fault = times(100, "cut", "GET", "/note")
    system, path = storage.filesystem(uri + "/note")
    with pytest.raises(InputError, match="expected an answer from .* within 2 tries, got "):
        system.cat_file(path)


def test_an_upload_that_is_cut_off_leaves_nothing(azure, uri):
    with pytest.raises(ZeroDivisionError):
        with storage.writing(uri + "/note") as file:
            file.write(b"half")
            1 / 0
    system, path = storage.filesystem(uri + "/note")
    assert not system.exists(path)


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
    plain, calls = storage.write_parquet, []

    def expires(*arguments):
        calls.append(1)
        if len(calls) == 2:
            monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure.with_token("tutorial", -5))
        return plain(*arguments)

    monkeypatch.setattr(storage, "write_parquet", expires)
    with pytest.raises(InputError, match="expected a token that is valid for .*, got one that expired"):
        scoring.score(spark, uri + "/tiles", model, uri + "/table", chunk_tiles=40)
    monkeypatch.setattr(storage, "write_parquet", plain)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure.connection_string)
    assert score(spark, uri, model)[0] == TILES - 40


def test_a_container_that_is_not_there_is_one_sentence(model):
    for act in (lambda: tilestore.read("abfs://nowhere/tiles"), lambda: bundle.load("abfs://nowhere/model"),
                lambda: read("abfs://nowhere/table"), lambda: bundle.upload(model, "abfs://nowhere/model"),
                lambda: tilestore.write_manifest("abfs://nowhere/tiles", "place", 0, tiles=1)):
        with pytest.raises(InputError, match="expected a container at .*/nowhere, got none of this name. Create it"):
            act()


def test_one_of_many_gets_the_claim(uri):
    tables = [predictions.Table(uri) for _ in range(8)]
    begin, got = threading.Barrier(8), []

    def try_it(table):
        begin.wait()
        try:
            with predictions.Claim(table):
                got.append("claim")
                time.sleep(1)
        except InputError as error:
            got.append(str(error))

    threads = [threading.Thread(target=try_it, args=(table,)) for table in tables]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert got.count("claim") == 1
    assert all("expected to be the only job that writes" in one for one in got if one != "claim")
    with predictions.Claim(tables[0]):
        pass  # It was given back.


def test_an_expired_claim_is_taken_by_one(uri):
    table = predictions.Table(uri)
    table.create_json("claim.json", {"owner": "x", "host": "gone", "process": 1, "started": 0,
                                     "renewed": time.time() - 2 * predictions.CLAIM_S})
    one, two = predictions.Table(uri), predictions.Table(uri)
    assert one.read_json("claim.json")["host"] == two.read_json("claim.json")["host"] == "gone"
    one.write_json("claim.json", {"owner": "one"})
    with pytest.raises(InputError, match="got another that has written its claim.json"):
        two.write_json("claim.json", {"owner": "two"})
    assert table.read_json("claim.json") == {"owner": "one"}


def test_a_driver_that_stood_still_adds_no_chunk_beside_another(uri):
    """Between its last look at the claim and its chunk another job has added one."""
    slow, quick = predictions.Table(uri), predictions.Table(uri)
    assert slow.state() is None and quick.state() is None
    quick.write_json("table.json", {"chunks": [1]})
    with pytest.raises(InputError, match="got another that has written its table.json"):
        slow.write_json("table.json", {"chunks": [2]})
    assert quick.state() == {"chunks": [1]}


def test_an_answer_that_got_lost_is_no_other_job(azure, uri):
    """The claim was made, the connection died before the answer: the second try meets the job's own file."""
    table = predictions.Table(uri)
    lost = []

    def fault(method, path):
        if method == "PUT" and "claim.json" in path and not lost:
            lost.append(path)
            return "cut"  # Half of an empty answer, and the end of the connection.
        return None

    azure.proxy.fault = fault
    assert table.create_json("claim.json", {"owner": "me"})
    system, path = storage.filesystem(uri + "/_scoring/claim.json")
    assert system.replace(path, json.dumps({"owner": "me"}, indent=1).encode(), None)
    with pytest.raises(FileExistsError):
        system.replace(path, b"another", None)
