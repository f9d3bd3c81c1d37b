from helpers.cluster import adapter


def test_what_a_classic_session_says_of_itself(spark):
    assert adapter.running() is spark and not adapter.is_connect(spark)
    assert adapter.master(spark).startswith("local[2") and adapter.slots(spark) == 2 and adapter.threads(spark) == 1
    assert adapter.application(spark).startswith("local-") and adapter.java(spark)[0].isdigit()


def test_a_file_reaches_the_workers_once(spark, tmp_path):
    def read(batches):
        import pandas as pd
        from pyspark import SparkFiles
        for _ in batches:
            with open(SparkFiles.get("shipped-1") + "/note") as file:
                yield pd.DataFrame({"text": [file.read()]})

    (tmp_path / "note").write_text("hello")
    (tmp_path / "other").write_text("stays here")
    for _ in range(2):
        adapter.ship(spark, tmp_path, ["note"], "shipped-1")
        assert spark.range(0, 2, 1, 2).mapInPandas(read, "text string").toPandas()["text"].tolist() == ["hello"] * 2
