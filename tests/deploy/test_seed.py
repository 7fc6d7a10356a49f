"""deploy/triton/seed: an empty volume is filled, and nothing that is on a volume is ever touched."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = sorted(folder.name for folder in (ROOT / "model_repository").iterdir())


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The program beside the models of the image, as in the image."""
    image = tmp_path / "image"
    shutil.copytree(ROOT / "model_repository", image / "model_repository", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "deploy" / "triton" / "seed", image)
    return image / "seed"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def seed(program: Path, repository: Path | str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MODEL_REPOSITORY": str(repository)}
    return subprocess.run([program], env=environment, capture_output=True, text=True, timeout=60)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def staged(volume: Path) -> list[str]:
    """What is left in the staging folder, but for the lock and the records of what was put in place."""
    names = [path.name for path in (volume / ".staging").iterdir()]
    return [name for name in names if name not in ("seed-lock", "lock") and not name.endswith(".sha256")]


def test_an_empty_volume_gets_every_model(program: Path, volume: Path) -> None:
    """All of the image, a line for each, and nothing left in the staging folder, which is beside what is served."""
    done = seed(program, volume / "routers")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"seed: {name}: copied" for name in OURS]
    assert files(volume / "routers") == files(program.parent / "model_repository")
    assert staged(volume) == []


def test_what_is_there_is_left_alone(program: Path, volume: Path) -> None:
    """A newer version, another's model and one of our name that is not ours stay as they are, and are named."""
    routers = volume / "routers"
    shutil.copytree(ROOT / "model_repository" / "prompt_classifier", routers / "prompt_classifier")
    shutil.copytree(routers / "prompt_classifier" / "1", routers / "prompt_classifier" / "2")
    for name in ("preprocessing_task_router", "task_router_ensemble"):
        (routers / name / "1").mkdir(parents=True)
        (routers / name / "config.pbtxt").write_text("theirs")
    (volume / "lost+found").mkdir()
    before = files(routers)
    done = seed(program, routers)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert "seed: prompt_classifier: there already, and left alone, though not as in this image" in lines
    assert "seed: preprocessing_task_router: there already, and not this image's" in lines
    assert "seed: task_router_ensemble: there already, and left alone, though not as in this image" in lines
    assert "seed: router_ensemble: copied" in lines
    assert len(lines) == len(OURS) + 1
    assert {name: text for name, text in files(routers).items() if name in before} == before


def test_a_second_run_changes_nothing(program: Path, volume: Path) -> None:
    """Everything is there already."""
    seed(program, volume)
    before = {path: path.stat().st_mtime_ns for path in volume.glob("*/**/*")}
    done = seed(program, volume)
    assert done.stdout.splitlines() == [f"seed: {name}: there already" for name in OURS]
    assert {path: path.stat().st_mtime_ns for path in volume.glob("*/**/*")} == before


def test_a_newer_image_replaces_what_an_older_one_copied(program: Path, volume: Path) -> None:
    """Unless anybody has changed it since: by a version of his own, or by hand. Both are left alone, and named."""
    seed(program, volume / "routers")
    new = program.parent / "model_repository"
    for name in ("prompt_classifier", "routellm_mf", "routellm_bert"):
        (new / name / "1" / "model.py").write_text("newer")
    (volume / "routers" / "routellm_mf" / "2").mkdir()
    (volume / "routers" / "routellm_mf" / "2" / "model.py").write_text("pushed")
    (volume / "routers" / "routellm_bert" / "config.pbtxt").write_text("by hand")
    lines = seed(program, volume / "routers").stdout.splitlines()
    assert "seed: prompt_classifier: replaced an older image's" in lines
    assert files(volume / "routers" / "prompt_classifier") == files(new / "prompt_classifier")
    for name in ("routellm_mf", "routellm_bert"):
        assert f"seed: {name}: there already, and left alone, though not as in this image" in lines
        assert (volume / "routers" / name / "1" / "model.py").read_text() != "newer"
    assert staged(volume) == []
    assert "seed: prompt_classifier: there already" in seed(program, volume / "routers").stdout.splitlines()


def test_nothing_is_replaced_while_a_push_is_at_work(program: Path, volume: Path) -> None:
    """What is missing comes; what a newer image would replace stays until the next start."""
    seed(program, volume / "routers")
    (program.parent / "model_repository" / "routellm_mf" / "1" / "model.py").write_text("newer")
    shutil.rmtree(volume / "routers" / "routellm_bert")
    with open(volume / ".staging" / "lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = seed(program, volume / "routers").stdout.splitlines()
    assert "seed: routellm_bert: copied" in lines
    assert any(line.startswith("seed: routellm_mf: an older image's, and left") for line in lines)
    assert (volume / "routers" / "routellm_mf" / "1" / "model.py").read_text() != "newer"
    assert "seed: routellm_mf: replaced an older image's" in seed(program, volume / "routers").stdout.splitlines()


def test_records_are_made_up_for(program: Path, volume: Path) -> None:
    """Of a model that is as in the image, when the run that copied it ended before it said so."""
    seed(program, volume / "routers")
    record = volume / ".staging" / "seed-routellm_mf.sha256"
    record.unlink()
    seed(program, volume / "routers")
    assert record.is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files that it gives up reading")
def test_a_file_that_cannot_be_read_is_somebody_elses(program: Path, volume: Path) -> None:
    """As the pod's user, whose files on the volume may be root's after a `kubectl cp`."""
    seed(program, volume / "routers")
    (volume / "routers" / "routellm_mf" / "1" / "model.py").chmod(0o600)
    with tempfile.TemporaryDirectory() as folder:  # the test's own is root's alone
        Path(folder).chmod(0o755)
        shutil.copytree(program.parent, f"{folder}/image")
        shutil.copytree(volume, f"{folder}/volume")
        environment = os.environ | {"MODEL_REPOSITORY": f"{folder}/volume/routers"}
        command = [f"{folder}/image/seed"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, user=65534)
    assert done.returncode == 0, done.stderr
    assert "seed: routellm_mf: there already, and left alone, though not as in this image" in done.stdout


def test_what_an_interrupted_run_left_is_cleared_away(program: Path, volume: Path) -> None:
    """Half a copy in the staging folder is not what gets into place, and others' copies there are not touched."""
    half = volume / ".staging" / "seed-abc" / "router_ensemble"
    half.mkdir(parents=True)
    (half / "config.pbtxt").write_text("half")
    (volume / ".staging" / "push-abc").mkdir()
    assert seed(program, volume / "routers").returncode == 0
    assert files(volume / "routers") == files(program.parent / "model_repository")
    assert staged(volume) == ["push-abc"]


def test_two_at_once_end_well(program: Path, volume: Path) -> None:
    """Replicas that start together on one empty volume: each is content, and each model is there once and whole."""
    environment = os.environ | {"MODEL_REPOSITORY": str(volume / "routers")}
    started = [
        subprocess.Popen([program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    outputs = [process.communicate(timeout=60) for process in started]
    assert [(process.returncode, errors) for process, (_, errors) in zip(started, outputs, strict=True)] == [
        (0, "")
    ] * 4
    copied = [line for output, _ in outputs for line in output.splitlines() if line.endswith(": copied")]
    assert sorted(copied) == [f"seed: {name}: copied" for name in OURS]
    assert files(volume / "routers") == files(program.parent / "model_repository")
    assert staged(volume) == []


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MiB, as a volume is."""
    mount = tmp_path / "mount"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("mounting takes root")
    yield mount
    subprocess.run(["umount", mount], check=True)


def test_staging_is_inside_a_repository_that_is_a_volume_itself(program: Path, tmpfs: Path) -> None:
    """A rename from beside it would leave its file system; Triton takes a hidden folder for no model."""
    assert seed(program, tmpfs).returncode == 0
    assert sorted(path.name for path in tmpfs.iterdir()) == [".staging", *OURS]


def test_a_volume_that_cannot_be_written_is_named(program: Path, tmpfs: Path) -> None:
    """Exit 1 and a line with the path; a complete volume needs no writing."""
    (tmpfs / "routers").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", tmpfs], check=True)
    done = seed(program, tmpfs / "routers")
    assert done.returncode == 1
    assert done.stderr == f"seed: cannot write {tmpfs}/routers/.staging: Read-only file system\n"
    subprocess.run(["mount", "-o", "remount,rw", tmpfs], check=True)
    assert seed(program, tmpfs / "routers").returncode == 0
    subprocess.run(["mount", "-o", "remount,ro", tmpfs], check=True)
    assert seed(program, tmpfs / "routers").returncode == 0


def test_a_full_volume_is_named_and_leaves_no_half_model(program: Path, tmpfs: Path) -> None:
    """Exit 1 and one line; what is in place is whole, and the next run with room brings the rest."""
    filler = tmpfs / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    filler.write_bytes(bytes(filler.stat().st_size - 16 * 4096))
    done = seed(program, tmpfs / "routers")
    assert done.returncode == 1
    assert done.stderr.startswith(f"seed: cannot write {tmpfs}/") and "No space left" in done.stderr
    assert done.stderr.count("\n") == 1
    image = files(program.parent / "model_repository")
    for model in (tmpfs / "routers").iterdir():
        assert files(model) == files(program.parent / "model_repository" / model.name)
    filler.unlink()
    assert seed(program, tmpfs / "routers").returncode == 0
    assert files(tmpfs / "routers") == image


def test_no_repository_named(program: Path) -> None:
    """Exit 1 and a line that names the variable."""
    done = seed(program, "")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "MODEL_REPOSITORY is not set" in done.stderr
