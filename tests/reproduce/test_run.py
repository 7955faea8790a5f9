"""kdlib/reproduce: a finished setting is run once, and its rows are there whole or not at all."""

import io
import math
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from multiprocessing import get_context
from threading import Event, Lock
from types import ModuleType, SimpleNamespace

import pandas as pd
import pytest
import torch

import kdlib as kd
from kdlib import reproduce
from kdlib.reproduce import (
    COLUMNS,
    PROTOCOLS,
    Published,
    Row,
    Setting,
    recipe_hash,
    results,
    run,
    ship,
    tables,
)
from kdlib.reproduce import __main__ as command

WHAT = COLUMNS[:4]


@pytest.fixture
def toy(monkeypatch):
    """A protocol of three settings that take no time; ``toy.ran`` lists what was measured."""
    toy = ModuleType("kdlib.reproduce.toy")
    toy.lines = {"one": "recipe 1", "two": "recipe 2", "three": "recipe 3"}
    toy.ran, toy.protocol, toy.others, toy.stop = [], "short", {}, lambda name: None

    def measure(name):
        toy.ran.append(name)
        for seed in range(3):
            yield Row("test_errors", 10 * len(name) + seed, student_seed=seed, seconds=0.5)
        toy.stop(name)
        yield Row("share", 0.1 + 0.2, None, 4)
        yield Row("diverged", math.nan)

    def setting(name, recipe):
        experiment = "odd" if name == "two" else "even"
        protocol = toy.others.get(name, toy.protocol)
        return Setting(experiment, name, protocol, recipe, lambda: measure(name))

    toy.settings = lambda: [setting(*line) for line in toy.lines.items()]
    monkeypatch.setitem(sys.modules, "kdlib.reproduce.toy", toy)
    # The function ``settings`` hides the module that it is defined in.
    for module in (import_module("kdlib.reproduce.settings"), command):
        monkeypatch.setattr(module, "PROTOCOLS", (*PROTOCOLS, "toy"))
    return toy


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder in the place of kdlib/reproduce/results."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(tables, "SHIPPED", folder)
    return folder


@pytest.fixture
def git(monkeypatch):
    """The commits that git names, one after the other, and how it was called."""
    git = SimpleNamespace(commits=["0123456789ab-dirty"], calls=[])

    def answer(arguments, cwd, **options):
        git.calls.append((arguments, cwd))
        if not git.commits:
            raise FileNotFoundError
        return subprocess.CompletedProcess(arguments, 0, f"{git.commits.pop(0)}\n")

    monkeypatch.setattr(subprocess, "run", answer)
    return git


def ran(toy):
    """What was measured since this was last asked."""
    names, toy.ran[:] = list(toy.ran), []
    return names


def finish(out, **options):
    return list(run("toy", out, **options))


def table(out, name="toy"):
    return pd.read_csv(out / f"{name}.csv")


def stopping_at(name, error):
    def stop(measured):
        if measured == name:
            raise error

    return stop


def same_rows(one, other, name="toy"):
    """Compare tables, whatever the order of their settings, their seconds and a commit made meanwhile."""
    by = [*WHAT, "metric", "student_seed"]
    found, expected = (
        table(out, name).sort_values(by, ignore_index=True).drop(columns=["seconds", "commit"])
        for out in (one, other)
    )
    pd.testing.assert_frame_equal(found, expected, rtol=1e-6)


# Running


def test_the_table_has_every_row_of_every_setting_once(toy, tmp_path):
    lines = finish(tmp_path)
    assert lines[0] == f"{tmp_path / 'toy.csv'}: 0 settings are there, 3 to do"
    assert lines[1:] == ["even: one", "odd: two", "even: three"]
    found = table(tmp_path)
    assert list(found) == COLUMNS
    assert found["setting"].tolist() == ["one"] * 5 + ["two"] * 5 + ["three"] * 5
    assert found["experiment"].tolist() == ["even"] * 5 + ["odd"] * 5 + ["even"] * 5
    assert set(found["protocol"]) == {"short"}
    hashes = [recipe_hash(f"recipe {n}") for n in (1, 2, 3)]
    assert found["recipe"].tolist() == [text for text in hashes for _ in range(5)]
    assert found["metric"].tolist() == [*["test_errors"] * 3, "share", "diverged"] * 3
    assert found["value"].tolist()[5:9] == pytest.approx([30, 31, 32, 0.3])
    assert found["value"].isna().tolist() == [False, False, False, False, True] * 3
    assert found["student_seed"].fillna(-1).tolist() == [0, 1, 2, -1, -1] * 3
    assert found["teacher_seed"].fillna(-1).tolist() == [-1, -1, -1, 4, -1] * 3
    assert found["seconds"].fillna(-1).tolist() == [0.5, 0.5, 0.5, -1, -1] * 3


def test_every_row_tells_where_it_was_measured_and_the_commit_of_the_start(
    toy, tmp_path, monkeypatch, git
):
    """The code was loaded at the start; a commit made meanwhile is not the one that ran."""
    monkeypatch.chdir(tmp_path)
    git.commits = ["0123456789ab-dirty", "made meanwhile"]
    finish(tmp_path)
    found = table(tmp_path)
    for name in ("hardware", "versions", "commit"):
        assert found[name].notna().all()
        assert found[name].nunique() == 1
    assert f"{os.cpu_count()} cores" in found["hardware"][0] or torch.cuda.is_available()
    for text in (f"kdlib {kd.__version__}", f"torch {torch.__version__}", "python 3."):
        assert text in found["versions"][0]
    assert found["commit"][0] == "0123456789ab-dirty"
    (arguments, cwd), *_ = git.calls
    assert arguments[:2] == ["git", "describe"] and "--dirty" in arguments
    assert cwd == tables.SHIPPED.parent
    git.commits = []  # and no git
    finish(tmp_path / "elsewhere")
    assert set(table(tmp_path / "elsewhere")["commit"]) == {"unknown"}


def test_two_runs_on_one_folder_count_nothing_twice(toy, tmp_path):
    one, other = run("toy", tmp_path), run("toy", tmp_path)
    for lines in (one, other, one, other):
        next(lines)
    list(one), list(other)
    finish(tmp_path / "alone")
    pd.testing.assert_frame_equal(table(tmp_path), table(tmp_path / "alone"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, FloatingPointError])
def test_what_was_finished_before_an_interruption_is_kept_and_the_rest_run_later(
    toy, tmp_path, error
):
    toy.stop = stopping_at("two", error)
    for measured in (["one", "two"], ["two"]):
        with pytest.raises(error):
            finish(tmp_path)
        assert ran(toy) == measured
        assert table(tmp_path)["setting"].tolist() == ["one"] * 5  # and none of two's three rows
    toy.stop = lambda name: None
    finish(tmp_path)
    assert ran(toy) == ["two", "three"]
    finish(tmp_path / "in one go")
    pd.testing.assert_frame_equal(table(tmp_path), table(tmp_path / "in one go"))


def test_a_crash_while_writing_leaves_the_table_as_it_was(toy, tmp_path, monkeypatch):
    finish(tmp_path, only=["odd"])
    before = (tmp_path / "toy.csv").read_bytes()

    def half(self, path, **options):
        path.write_text("experiment,sett")
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", half)
        with pytest.raises(MemoryError):
            finish(tmp_path)
    assert (tmp_path / "toy.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["toy.csv"]
    assert ran(toy) == ["two", "one"]
    finish(tmp_path)
    assert ran(toy) == ["one", "three"]


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_rows_that_a_full_disk_refuses_are_written_later_or_shown(
    toy, tmp_path, monkeypatch, failures
):
    finish(tmp_path / "in one go")
    expected, replace, left = table(tmp_path / "in one go"), os.replace, [failures]
    ran(toy)

    def full(source, target):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    lines = list(run("toy", tmp_path))
    assert len(ran(toy)) == 3  # it goes on
    assert sum("not written yet: No space left on device" in line for line in lines) == failures
    found = (
        io.StringIO(lines[-1].partition("rows:\n")[2]) if failures == 3 else tmp_path / "toy.csv"
    )
    columns = ["experiment", "setting", "metric", "value"]
    pd.testing.assert_frame_equal(pd.read_csv(found)[columns], expected[columns])


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(toy, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="out must be a folder that can be written, but .*file"):
        list(run("toy", tmp_path / "file" / "results"))
    assert ran(toy) == []


def test_a_setting_with_another_recipe_or_protocol_is_another(toy, tmp_path):
    finish(tmp_path)
    assert ran(toy) == ["one", "two", "three"]
    toy.lines["two"] = "recipe 2, longer"
    assert "2 settings are there, 1 to do" in finish(tmp_path)[0]
    assert ran(toy) == ["two"]
    found = table(tmp_path)
    assert found["setting"].value_counts().to_dict() == {"one": 5, "two": 10, "three": 5}
    assert found["recipe"][found["setting"] == "two"].nunique() == 2
    toy.protocol = "smoke"
    finish(tmp_path)
    assert ran(toy) == ["one", "two", "three"]


def test_only_the_experiments_that_are_named_are_run(toy, tmp_path):
    with pytest.raises(ValueError, match="only must name some of even, odd, got 'prime'"):
        finish(tmp_path, only=["even", "prime"])
    assert ran(toy) == []
    finish(tmp_path, only=["odd"])
    assert ran(toy) == ["two"]
    finish(tmp_path, only=["even", "odd"])
    assert ran(toy) == ["one", "three"]


def test_the_first_of_two_protocols_is_run_unless_another_is_asked_for(toy, tmp_path):
    toy.others["three"] = "paper"
    assert finish(tmp_path)[0].endswith("0 settings are there, 2 to do")
    assert ran(toy) == ["one", "two"]
    assert len(finish(tmp_path, protocol="paper")) == 2
    assert ran(toy) == ["three"]
    with pytest.raises(ValueError, match="protocol must be one of short, paper, got 'long'"):
        finish(tmp_path, protocol="long")


def test_numbers_and_texts_do_not_change_when_the_table_is_written_again(toy, tmp_path, git):
    """Numbers with all their digits; names and commits that look like other numbers."""
    draws = torch.Generator().manual_seed(0)
    values = torch.rand(500, generator=draws, dtype=torch.float64).tolist()
    names = ["007", "1e3", "1.50", "12"]
    git.commits = ["001234567890"]
    settings = [
        Setting("01", name, "short", name, lambda: [Row("2", value) for value in values])
        for name in names
    ]
    toy.settings = lambda: settings
    finish(tmp_path)
    found = pd.read_csv(tmp_path / "toy.csv", dtype=str)
    assert found["setting"].unique().tolist() == names
    assert found["value"].map(float).tolist() == values * 4
    expected = {"experiment": "01", "metric": "2", "commit": "001234567890"}
    assert found[list(expected)].drop_duplicates().to_dict("records") == [expected]
    assert finish(tmp_path)[0].endswith("4 settings are there, 0 to do")


# What is refused


def test_an_unknown_protocol_is_refused_and_the_known_ones_are_named(tmp_path):
    message = "name must be one of student, hinton, fitnets, fsp, ban, ban_lm, got 'teacher'"
    for call in (reproduce.settings, lambda name: list(run(name, tmp_path))):
        with pytest.raises(ValueError, match=message):
            call("teacher")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("columns", [COLUMNS[:-1], [*COLUMNS, "note"], COLUMNS[::-1]])
def test_a_table_with_other_columns_is_refused_and_left_alone(toy, tmp_path, columns):
    path = tmp_path / "toy.csv"
    pd.DataFrame([["x"] * len(columns)], columns=columns).to_csv(path, index=False)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="toy.csv must have the columns experiment, .*commit"):
        finish(tmp_path)
    assert path.read_bytes() == before
    assert ran(toy) == []


# Shipping


def test_ship_copies_the_rows_of_the_current_settings_in_their_order(toy, tmp_path, shipped):
    toy.protocol = "smoke"
    finish(tmp_path, only=["odd"])
    toy.protocol = "short"
    toy.lines["three"] = "recipe 3, too short"
    finish(tmp_path, only=["even"])
    toy.lines |= {"three": "recipe 3", "four": "recipe 4"}
    finish(tmp_path)
    del toy.lines["four"]
    assert list(dict.fromkeys(table(tmp_path)["setting"])) == ["two", "one", "three", "four"]
    assert ship("toy", tmp_path) == shipped / "toy.csv"
    finish(tmp_path / "in one go")
    pd.testing.assert_frame_equal(table(shipped), table(tmp_path / "in one go"))


def test_protocols_are_shipped_whole_and_one_that_was_not_begun_is_not_asked_for(
    toy, tmp_path, shipped
):
    toy.others["three"] = "paper"
    finish(tmp_path, protocol="paper")
    ship("toy", tmp_path)
    assert set(table(shipped)["protocol"]) == {"paper"}
    finish(tmp_path, only=["even"])  # of the first protocol only "one"
    with pytest.raises(ValueError, match="odd: two is not in"):
        ship("toy", tmp_path)
    finish(tmp_path)
    ship("toy", tmp_path)
    assert list(dict.fromkeys(table(shipped)["setting"])) == ["one", "two", "three"]


def test_ship_refuses_a_table_that_is_not_whole(toy, tmp_path, shipped):
    def refused(message):
        with pytest.raises(ValueError, match=re.escape(message)):
            ship("toy", tmp_path)

    path = tmp_path / "toy.csv"
    refused("out must hold toy.csv")
    finish(tmp_path, only=["even"])
    refused(f"odd: two is not in {tmp_path}; run it first")
    finish(tmp_path)
    toy.lines["three"] = "recipe 3, longer"
    refused(f"even: three is not in {tmp_path}")
    toy.lines["three"] = "recipe 3"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, *lines[-5:], ""]))
    refused(f"odd: two is in {path} more than once")
    toy.protocol = "smoke"
    finish(tmp_path)
    refused("KDLIB_PROFILE must not be smoke")
    assert list(shipped.iterdir()) == []


def test_results_reads_a_shipped_table(toy, tmp_path, shipped):
    finish(tmp_path)
    ship("toy", tmp_path)
    found = results("toy")
    assert kd.results is results
    assert list(found.columns) == COLUMNS
    assert found["value"].tolist()[:4] == [30, 31, 32, 0.1 + 0.2]
    for name in ("student_seed", "teacher_seed"):
        assert found[name].dtype == "Int64"


def test_results_names_the_tables_there_are(shipped):
    for name in ("student", "fitnets"):
        (shipped / f"{name}.csv").write_text("")
    with pytest.raises(ValueError, match="name must be one of fitnets, student, got 'born_again'"):
        results("born_again")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_shipped_row_is_of_a_setting_of_this_code_and_every_setting_is_shipped(lesson, name):
    """Whoever changes a recipe must run it again; no table outlives its code."""
    found = set(results(name)[WHAT].itertuples(index=False, name=None))
    settings = {setting.key for setting in reproduce.settings(name)}
    assert found - settings == set(), "rows that no setting of this code would give"
    begun = {protocol for _, _, protocol, _ in found}
    of_begun = {key for key in settings if key[2] in begun}
    assert of_begun - found == set(), "settings that the table does not have"


# Against a paper


def test_measured_gives_one_number_a_seed_in_their_order():
    rows = [
        ("a", "x", 2, 20.0),
        ("a", "x", 1, 10.0),
        ("a", "t, seed 1", None, 7.0),
        ("b", "x", 1, 5.0),
    ]
    found = pd.DataFrame(rows, columns=["experiment", "setting", "student_seed", "value"])
    found = found.assign(metric="test_errors", teacher_seed=0)
    assert reproduce.measured(found, "a", "x") == [10.0, 20.0]
    for name in ("t", "t, seed 1"):
        assert reproduce.measured(found, "a", name) == [7.0]
    for wanted, message in (
        (("c", "x"), "experiment must be one of 'a', 'b', got 'c'"),
        (("b", "t"), "setting must be one of 'x', got 't'"),
        (("a", "x", "loss"), "metric must be one of 'test_errors', got 'loss'"),
    ):
        with pytest.raises(ValueError, match=message):
            reproduce.measured(found, *wanted)


def test_a_papers_numbers_stand_beside_the_mean_and_interval_of_ours(toy, tmp_path):
    toy.lines = {"one": "recipe 1", "teacher, seed 0": "recipe 2", "teacher, seed 1": "recipe 3"}
    toy.PAPER = (
        Published("students", 40, "even", "one"),
        Published("shares", 0.5, "even", "teacher", "share"),
    )
    finish(tmp_path)
    found = reproduce.against_the_paper("toy", table(tmp_path))
    assert list(found.index) == ["students", "shares"]
    ours = kd.interval([30, 31, 32])
    assert found.loc["students"].tolist() == [40, 31, ours.low, ours.high, 3]
    assert found.loc["shares"].tolist() == pytest.approx([0.5, 0.3, 0.3, 0.3, 2])


def test_of_two_protocols_the_papers_own_stands_beside_the_paper(toy):
    toy.PAPER = (Published("errors", 5, "a", "x"),)
    rows = [("short", 30.0), ("short", 32.0), ("paper", 9.0), ("paper", 11.0)]
    found = pd.DataFrame(rows, columns=["protocol", "value"])
    found = found.assign(experiment="a", setting="x", metric="test_errors")
    assert reproduce.against_the_paper("toy", found)["ours"].item() == 10
    assert reproduce.against_the_paper("toy", found[:2])["ours"].item() == 31


def test_a_number_that_the_table_lacks_and_a_protocol_of_no_paper_are_refused(toy, tmp_path):
    finish(tmp_path)
    with pytest.raises(ValueError, match="name must be a paper's protocol, got 'toy'"):
        reproduce.against_the_paper("toy", table(tmp_path))
    toy.PAPER = (Published("losses", 40, "even", "one", "test_loss"),)
    with pytest.raises(ValueError, match="table must have test_loss of even: one .* got 0"):
        reproduce.against_the_paper("toy", table(tmp_path))


# The command


def test_the_command_runs_prints_and_ships(toy, tmp_path, shipped, capsys):
    def printed(*arguments):
        command.main(["toy", "--out", str(tmp_path), *arguments])
        return [line.split("  ")[-1] for line in capsys.readouterr().out.splitlines()[1:]]

    toy.others["three"] = "paper"
    assert printed("--only", "odd") == ["odd: two"]
    assert printed("--only", "odd", "even") == ["even: one"]
    assert printed() == []
    assert printed("--protocol", "paper") == ["even: three"]
    ran(toy)
    command.main(["toy", "--out", str(tmp_path), "--ship"])
    assert capsys.readouterr().out == f"{shipped / 'toy.csv'}\n"
    assert ran(toy) == []
    assert len(results("toy")) == 15


def test_the_command_finds_the_readers_home(toy, tmp_path, shipped, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    command.main(["toy", "--out=~/results"])
    command.main(["toy", "--out=~/results", "--ship"])
    assert (tmp_path / "results" / "toy.csv").exists() and not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        *(
            (["toy", "--workers", count], f"must be a whole number of at least 1, got {count}")
            for count in ("0", "-1", "two")
        ),
        (
            ["toy", "--workers", "2", "--dask", "tcp://127.0.0.1:1"],
            "not allowed with argument --workers",
        ),
        (["teacher"], "invalid choice: 'teacher'"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(toy, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        command.main([*arguments, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err
    assert ran(toy) == []


def test_python_m_runs_a_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kdlib.reproduce", "student", "--only", "annet"])
    monkeypatch.delitem(sys.modules, "kdlib.reproduce.__main__")
    runpy.run_module("kdlib.reproduce", run_name="__main__")
    found = table(tmp_path / "results", "student")
    assert found["setting"].unique().tolist() == ["labels", "as printed", "mended"]
    assert set(found["experiment"]) == {"annet"}
    assert set(found["protocol"]) == {"smoke"}


# Where an executor measures


def test_an_executor_measures_what_one_process_does_and_may_be_stopped_midway(toy, tmp_path):
    finish(tmp_path / "alone")
    ran(toy)
    closed = Event()
    toy.stop = lambda name: name == "two" and closed.wait(30)
    with ThreadPoolExecutor(1) as executor:
        lines = run("toy", tmp_path / "pool", executor=executor)
        by_pool = [next(lines), next(lines)]
        lines.close()
        closed.set()
    assert "three" not in ran(toy)
    assert by_pool[0].endswith("0 settings are there, 3 to do")
    assert table(tmp_path / "pool")["setting"].nunique() == 1
    rest = finish(tmp_path / "pool")
    assert rest[0].endswith("1 settings are there, 2 to do")
    assert sorted(by_pool[1:] + rest[1:]) == ["even: one", "even: three", "odd: two"]
    same_rows(tmp_path / "pool", tmp_path / "alone")


def test_threads_that_share_a_process_measure_one_at_a_time(toy, tmp_path):
    """fit seeds torch's own generator, which all threads share."""
    at_work = Lock()

    def stop(name):
        assert at_work.acquire(blocking=False)
        time.sleep(0.01)  # another thread would be here meanwhile
        at_work.release()

    toy.stop = stop
    with ThreadPoolExecutor(3) as executor:
        assert len(finish(tmp_path, executor=executor)) == 4


def test_a_setting_that_fails_takes_nothing_away_from_the_others(toy, tmp_path):
    toy.stop = stopping_at("two", BrokenProcessPool("killed"))
    with (
        ThreadPoolExecutor(2) as executor,
        pytest.raises(RuntimeError, match=r"odd: two failed \(killed\), as did 0 more") as failed,
    ):
        finish(tmp_path, executor=executor)
    assert isinstance(failed.value.__cause__, BrokenProcessPool)
    assert sorted(table(tmp_path)["setting"].unique()) == ["one", "three"]
    toy.stop = lambda name: None
    assert "2 settings are there, 1 to do" in finish(tmp_path)[0]


def test_a_setting_that_is_unknown_where_it_is_to_be_measured_fails_there(toy, tmp_path):
    """Stands for a worker with another version of kdlib or another profile."""
    here, there = toy.settings(), toy.settings()[1:]
    asked = iter([here])
    toy.settings = lambda: next(asked, there)
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(RuntimeError, match="even: one failed .* KDLIB_PROFILE must match"),
    ):
        finish(tmp_path, executor=executor)
    assert sorted(table(tmp_path)["setting"].unique()) == ["three", "two"]


def test_the_command_starts_workers_and_finds_a_cluster(toy, tmp_path, monkeypatch):
    """Threads stand in for processes and a cluster; the slow tests use real ones."""
    asked = []

    class Client:
        def __init__(self, address):
            asked.append(address)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            asked.append("closed")

        def get_executor(self, pure):
            return ThreadPoolExecutor(2)

    def pool(workers, *arguments):
        asked.append((workers, *arguments))
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(command, "ProcessPoolExecutor", pool)
    command.main(["toy", "--out", str(tmp_path), "--only", "odd", "--workers", "2"])
    assert asked == [(2, get_context("spawn"), torch.set_num_threads, (1,))]
    there = ["toy", "--out", str(tmp_path), "--dask", "tcp://there:1"]
    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(Client=Client))
    command.main(there)
    assert asked[1:] == ["tcp://there:1", "closed"]
    assert sorted(ran(toy)) == ["one", "three", "two"]
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SystemExit, match="--dask needs the extra"):
        command.main(there)


@pytest.mark.slow
def test_a_worker_that_is_killed_takes_nothing_away_and_the_rest_is_run_later(tmp_path):
    """Two real processes; the rows are those of one process, whatever happens to the others."""
    only = ["all images", "weak teacher", "images"]
    with command._executor(2, None) as executor, pytest.raises(RuntimeError) as failed:
        for done, _ in enumerate(run("student", tmp_path / "two", executor=executor, only=only)):
            if done == 2:
                os.kill(next(iter(executor._processes)), signal.SIGKILL)
    assert isinstance(failed.value.__cause__, BrokenProcessPool)
    kept = table(tmp_path / "two", "student")["setting"].nunique()
    assert 2 <= kept < 16
    for out in ("two", "alone"):
        first, *_ = run("student", tmp_path / out, only=only)
        assert f"{kept if out == 'two' else 0} settings are there" in first
    same_rows(tmp_path / "two", tmp_path / "alone", "student")


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_midway_loses_nothing_and_counts_nothing_twice(
    tmp_path, capsys
):
    """A real Dask cluster of two processes; one is killed while it measures."""
    distributed = pytest.importorskip("distributed")
    only = ["all images", "weak teacher", "images"]
    list(run("student", tmp_path / "alone", only=only))
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, env={"OMP_NUM_THREADS": "1"}
    ) as cluster:
        address = cluster.scheduler_address
        with distributed.Client(address) as client, command._executor(1, address) as executor:
            lines = run("student", tmp_path / "cluster", executor=executor, only=only)
            assert [next(lines), next(lines)][0].endswith("0 settings are there, 16 to do")
            pids = client.run(os.getpid)
            busy = next(worker for worker, tasks in client.processing().items() if tasks)
            os.kill(pids[busy], signal.SIGKILL)
            assert len(list(lines)) == 15
        command.main(
            ["student", "--out", str(tmp_path / "cluster"), "--dask", address, "--only", *only]
        )
    assert "16 settings are there, 0 to do" in capsys.readouterr().out
    same_rows(tmp_path / "cluster", tmp_path / "alone", "student")
