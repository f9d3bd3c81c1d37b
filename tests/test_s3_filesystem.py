"""S3 storage, rehearsed on moto's server, which checks keys and signatures: store, bundle and table on ``s3://``."""

import json
import subprocess
import sys
import time
import traceback
import urllib.request

import pytest

import tiny
from helpers import InputError
from helpers.files import create, filesystem, write_whole
from helpers.model import bundle
from helpers.scoring import score as scoring
from helpers.scoring.table import read, summary
from helpers.tiles import store as tilestore
from helpers.tiles.folder import write_images
from servers import free_port, wait_for, winners

TILES = 90


class Moto:
    """moto's server as a process, with a bucket, and a user who may use this one alone."""

    def __init__(self, folder):
        port = free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        self._log = open(folder / "moto.log", "w")
        self._process = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                                         stdout=self._log, stderr=subprocess.STDOUT)
        wait_for(port, self._process, "moto's server")

    def fill(self):
        import boto3
        session = boto3.Session("first", "first", region_name="us-east-1")
        for name in ("tutorial", "other"):
            session.client("s3", endpoint_url=self.endpoint).create_bucket(Bucket=name)
        users = session.client("iam", endpoint_url=self.endpoint)
        users.create_user(UserName="reader")
        users.put_user_policy(UserName="reader", PolicyName="tutorial", PolicyDocument=json.dumps({
            "Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": [
                f"arn:aws:s3:::{name}" for name in ("tutorial", "tutorial/*", "nowhere", "nowhere/*")]}]}))
        key = users.create_access_key(UserName="reader")["AccessKey"]
        self.key, self.secret = key["AccessKeyId"], key["SecretAccessKey"]
        # From now on it looks at who asks.
        urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/moto-api/reset-auth", b"0", {
            "Content-Type": "text/plain"})).close()

    def close(self):
        self._process.terminate()
        self._process.wait(20)
        self._log.close()


@pytest.fixture(scope="module")
def moto(tmp_path_factory):
    running = Moto(tmp_path_factory.mktemp("moto"))
    try:
        running.fill()
        yield running
    finally:
        running.close()


@pytest.fixture(autouse=True)
def connected(moto, nobody, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto.secret)
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.endpoint)
    # No keys of whoever runs the tests, and no question to a machine's role.
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("TUTORIAL_HOME", str(tmp_path))


@pytest.fixture
def uri(request):
    """A folder of this test's own."""
    return f"s3://tutorial/{request.node.name.split('[')[0]}-{time.monotonic_ns()}"


@pytest.fixture
def pictures(tmp_path):
    tiny.pictures(tmp_path / "pile", range(TILES))
    return tmp_path / "pile"


def score(spark, uri, model):
    scoring.score(spark, uri + "/tiles", model, uri + "/table")
    table = read(uri + "/table")
    assert table["tile_id"].is_unique
    return summary(uri + "/table")["scored_now"], table.assign(probabilities=table["probabilities"].map(list))


def done(uri):
    """Names of the units that a table has."""
    system, path = filesystem(uri + "/table")
    return sorted(name[len(path) + 1:-len(".parquet")] for name in system.find(path) if name.endswith(".parquet"))


def test_executors_read_and_write_there(spark, uri, pictures, model, tmp_path):
    """Tiles, model and table on S3: the rows of a disk. What is done stays done; what is missing or new is scored."""
    write_images(pictures, uri + "/tiles")
    write_images(pictures, str(tmp_path / "here" / "tiles"))
    assert tilestore.read(uri + "/tiles").equals(tilestore.read(str(tmp_path / "here" / "tiles")))
    bundle.upload(model, uri + "/model")
    brought = bundle.load(uri + "/model")
    assert brought.checksum == model.checksum and brought.folder != model.folder
    scored, table = score(spark, uri, brought)
    assert scored == TILES and table["error_kind"].isna().all()
    assert table.equals(score(spark, str(tmp_path / "here"), model)[1])
    assert score(spark, uri, brought)[0] == 0
    units, _ = scoring.units(uri + "/tiles", tilestore.partitions(uri + "/tiles"), model.checksum,
                             summary(uri + "/table")["engine"])
    lost = done(uri)[0]
    system, path = filesystem(uri + "/table")
    system.rm_file(f"{path}/{lost}.parquet")
    scored, again = score(spark, uri, brought)
    assert scored == units[lost]["tiles"] < TILES and again.equals(table)
    (pictures / "00011.png").write_bytes(tiny.picture(5000))
    (pictures / "00012.png").unlink()
    write_images(pictures, uri + "/tiles")
    scored, changed = score(spark, uri, brought)
    assert 0 < scored < TILES and len(changed) == TILES - 1 and "00012.png" not in set(changed["tile_id"])
    assert done(uri) == summary(uri + "/table")["units"]


def test_what_others_have_written_since_is_seen(uri, moto):
    """A listing that was kept would hide it: two jobs may write one table."""
    from s3fs import S3FileSystem
    write_whole(uri + "/early", b"content")
    system, path = filesystem(uri)
    assert len(system.ls(path)) == 1 and not system.exists(path + "/late")
    S3FileSystem(key=moto.key, secret=moto.secret, endpoint_url=moto.endpoint).pipe_file(path + "/late", b"content")
    assert len(system.ls(path)) == 2 and system.exists(path + "/late")


def test_keys_that_end_in_mid_job_keep_what_is_done(spark, uri, pictures, model, monkeypatch):
    """Seen by the workers, and told by the driver in one sentence; with good keys the job goes on."""
    write_images(pictures, uri + "/tiles")
    units, _ = scoring.units(uri + "/tiles", tilestore.partitions(uri + "/tiles"), model.checksum, "onnxruntime")
    plain, gone = scoring.score_unit, {units[name]["uri"] for name in list(units)[1:]}

    def with_a_key_that_ends(unit, **options):
        import os
        if unit["uri"] in gone:
            os.environ["AWS_SECRET_ACCESS_KEY"] = "hidden" * 5
        return plain(unit, **options)

    with monkeypatch.context() as patch, pytest.raises(
            InputError, match="expected to be allowed to use s3://tutorial, got (403|Signature)"):
        patch.setattr(scoring, "score_unit", with_a_key_that_ends)
        scoring.score(spark, uri + "/tiles", model, uri + "/table", tasks=1, engine="onnxruntime")
    kept = done(uri)
    assert 0 < len(kept) < len(units)
    scoring.score(spark, uri + "/tiles", model, uri + "/table", engine="onnxruntime")
    assert summary(uri + "/table")["scored_now"] == TILES - sum(units[name]["tiles"] for name in kept)
    assert len(read(uri + "/table")) == TILES


def secretly(act, sentence):
    """The act fails with one sentence, and neither that nor its traceback has a secret in it."""
    with pytest.raises(InputError, match=sentence) as told:
        act()
    text = "".join(traceback.format_exception(told.value))
    assert "\n" not in str(told.value) and "hidden" not in text.lower()
    return text


@pytest.mark.parametrize("name, code", [("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"),
                                        ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch"),
                                        ("AWS_SESSION_TOKEN", "InvalidToken")])
def test_a_wrong_key_is_one_sentence_without_it(spark, moto, uri, pictures, model, monkeypatch, name, code):
    write_images(pictures, uri + "/tiles")
    monkeypatch.setenv(name, "HIDDEN" * 5)
    for act in (lambda: scoring.score(spark, uri + "/tiles", model, uri + "/table"), lambda: read(uri + "/table"),
                lambda: bundle.load(uri + "/model"), lambda: bundle.upload(model, uri + "/model"),
                lambda: tilestore.partitions(uri + "/tiles")):
        assert moto.secret not in secretly(act, f"expected to be allowed to use s3://tutorial, got ({code}|40[03])\\.")


def test_a_bucket_of_others_and_one_that_is_not_there_are_one_sentence(model):
    for act in (lambda: tilestore.partitions("s3://other/tiles"), lambda: bundle.upload(model, "s3://other/model")):
        secretly(act, r"expected to be allowed to use s3://other, got (AccessDenied|403)\.")
    for act in (lambda: tilestore.partitions("s3://nowhere/tiles"), lambda: bundle.upload(model, "s3://nowhere/model")):
        secretly(act, "expected a bucket at s3://nowhere, got none of this name. Create it")
    secretly(lambda: bundle.upload(model, "s3://no one's/model"), "expected a bucket at s3://no one's, got none of")


def test_a_storage_that_does_not_answer_is_one_sentence(monkeypatch):
    monkeypatch.setattr("helpers.s3_filesystem.S3.retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    for act in (lambda: tilestore.partitions("s3://tutorial/tiles"), lambda: write_whole("s3://tutorial/note", b"it")):
        secretly(act, "expected an answer for s3://tutorial, got EndpointConnectionError after several tries. Run the")


def test_without_keys_one_sentence_names_the_variables(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    secretly(lambda: tilestore.partitions("s3://tutorial/tiles"),
             "expected to be allowed to use s3://tutorial, got NoCredentialsError. Set AWS_ACCESS_KEY_ID and")


def test_one_of_many_creates_a_file(uri):
    (winner,) = winners(lambda number: create(uri + "/_table.json", str(number).encode()))
    system, path = filesystem(uri + "/_table.json")
    assert system.cat_file(path) == str(winner).encode()
