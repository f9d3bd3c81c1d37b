"""Jars that Maven brings once, by their coordinates, into the ignored folder of the rehearsals."""

import shutil
import subprocess
from pathlib import Path

import pytest

POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion><groupId>rehearsal</groupId><artifactId>rehearsal</artifactId><version>1</version>
<dependencies>{}</dependencies>
</project>
"""
DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"


def jars(folder: Path, name: str, *wanted) -> list:
    """Jars of some (group, artifact, version) and of all that they need; the test is skipped without them."""
    if not (folder / "complete").exists():
        if not shutil.which("mvn"):
            pytest.skip(f"no Maven on this machine to bring {name}: install it (on Debian: apt-get install maven)")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "pom.xml").write_text(POM.format("".join(DEPENDENCY.format(*one) for one in wanted)))
        done = subprocess.run(["mvn", "-B", "-q", "dependency:copy-dependencies",
                               f"-DoutputDirectory={folder}"], cwd=folder, capture_output=True, text=True, timeout=500)
        if done.returncode:
            said = [line for line in done.stdout.splitlines() if "ERROR" in line]
            pytest.skip(f"Maven can't bring {name}: {(said or [done.stderr])[0][:300]}")
        (folder / "complete").touch()
    return sorted(folder.glob("*.jar"))
