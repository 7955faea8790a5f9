"""kdlib/reproduce: a finished setting is run once, and its rows are there whole or not at all."""

import math
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from importlib import import_module
from types import ModuleType, SimpleNamespace

import pandas as pd
import pytest
import torch

import kdlib as kd
from kdlib import reproduce
from kdlib.reproduce import (
    COLUMNS,
    PROTOCOLS,
    Row,
    Setting,
    recipe_hash,
    results,
    run,
    ship,
    student,
    tables,
)
from kdlib.reproduce import __main__ as command

WHAT = COLUMNS[:4]
# The functions run and settings hide the modules that they are defined in.
OF_RUN, OF_SETTINGS = (import_module(f"kdlib.reproduce.{name}") for name in ("run", "settings"))


@pytest.fixture
def toy(monkeypatch):
    """A protocol of three settings that take no time; ``toy.ran`` lists what was measured."""
    toy = ModuleType("kdlib.reproduce.toy")
    toy.lines = {"one": "recipe 1", "two": "recipe 2", "three": "recipe 3"}
    toy.ran, toy.protocol, toy.stop = [], "short", lambda name: None

    def measure(name):
        toy.ran.append(name)
        for seed in range(3):
            yield Row("test_errors", 10 * len(name) + seed, student_seed=seed, seconds=0.5)
        toy.stop(name)
        yield Row("share", 0.1 + 0.2, None, 4)
        yield Row("diverged", math.nan)

    def settings():
        return [
            Setting(
                "odd" if name == "two" else "even",
                name,
                toy.protocol,
                recipe,
                lambda name=name: measure(name),
            )
            for name, recipe in toy.lines.items()
        ]

    toy.settings = settings
    monkeypatch.setitem(sys.modules, "kdlib.reproduce.toy", toy)
    for module in (OF_SETTINGS, command):
        monkeypatch.setattr(module, "PROTOCOLS", (*PROTOCOLS, "toy"))
    return toy


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder in the place of kdlib/reproduce/results."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(tables, "SHIPPED", folder)
    return folder


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


def test_every_row_says_on_what_it_was_measured(toy, tmp_path):
    finish(tmp_path)
    found = table(tmp_path)
    for name in ("hardware", "versions", "commit"):
        assert found[name].notna().all()
        assert found[name].nunique() == 1
    assert f"{os.cpu_count()} cores" in found["hardware"][0] or torch.cuda.is_available()
    for text in (f"kdlib {kd.__version__}", f"torch {torch.__version__}", "python 3."):
        assert text in found["versions"][0]


def test_the_commit_is_that_of_the_library_or_unknown(tmp_path, monkeypatch):
    called = []

    def git(arguments, cwd, **options):
        called.append((arguments, cwd))
        return subprocess.CompletedProcess(arguments, 0, "0123456789ab-dirty\n")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", git)
    assert OF_RUN._commit() == "0123456789ab-dirty"
    (arguments, cwd), *_ = called
    assert arguments[:2] == ["git", "describe"] and "--dirty" in arguments
    assert cwd == tables.SHIPPED.parent

    def no_git(*arguments, **options):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", no_git)
    assert OF_RUN._commit() == "unknown"


def test_the_commit_is_that_of_the_start_for_the_code_was_loaded_then(toy, tmp_path, monkeypatch):
    commits = iter(["at the start", "made meanwhile", "and another"])
    monkeypatch.setattr(OF_RUN, "_commit", lambda: next(commits))
    finish(tmp_path)
    assert table(tmp_path)["commit"].unique().tolist() == ["at the start"]


def test_two_runs_on_one_folder_count_nothing_twice(toy, tmp_path):
    one, other = run("toy", tmp_path), run("toy", tmp_path)
    for lines in (one, other, one, other):
        next(lines)
    list(one), list(other)
    finish(tmp_path / "alone")
    pd.testing.assert_frame_equal(table(tmp_path), table(tmp_path / "alone"))


def test_a_finished_setting_is_not_run_again(toy, tmp_path):
    finish(tmp_path)
    assert ran(toy) == ["one", "two", "three"]
    before = (tmp_path / "toy.csv").read_bytes()
    assert finish(tmp_path) == [f"{tmp_path / 'toy.csv'}: 3 settings are there, 0 to do"]
    assert ran(toy) == []
    assert (tmp_path / "toy.csv").read_bytes() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, FloatingPointError])
def test_what_was_finished_before_an_interruption_is_kept_and_the_rest_run_later(
    toy, tmp_path, error
):
    toy.stop = stopping_at("two", error)
    with pytest.raises(error):
        finish(tmp_path)
    assert ran(toy) == ["one", "two"]
    assert table(tmp_path)["setting"].tolist() == ["one"] * 5  # and none of two's three rows
    with pytest.raises(error):
        finish(tmp_path)
    assert ran(toy) == ["two"]
    toy.stop = lambda name: None
    finish(tmp_path)
    assert ran(toy) == ["two", "three"]
    finish(tmp_path / "in one go")
    pd.testing.assert_frame_equal(table(tmp_path), table(tmp_path / "in one go"))


def test_a_run_that_is_left_midway_goes_on_where_it_stood(toy, tmp_path):
    lines = run("toy", tmp_path)
    assert [next(lines), next(lines)][1] == "even: one"
    lines.close()
    assert ran(toy) == ["one"]
    assert len(table(tmp_path)) == 5
    finish(tmp_path)
    assert ran(toy) == ["two", "three"]


def test_a_crash_while_writing_leaves_the_table_as_it_was(toy, tmp_path, monkeypatch):
    finish(tmp_path, only=["odd"])
    before = (tmp_path / "toy.csv").read_bytes()

    def half(self, path, **options):
        path.write_text("experiment,sett")
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", half)
        with pytest.raises(OSError, match="no space left"):
            finish(tmp_path)
    assert (tmp_path / "toy.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["toy.csv"]
    assert ran(toy) == ["two", "one"]
    finish(tmp_path)
    assert ran(toy) == ["one", "three"]


def test_a_setting_whose_recipe_changed_is_run_again(toy, tmp_path):
    finish(tmp_path)
    ran(toy)
    toy.lines["two"] = "recipe 2, longer"
    assert "2 settings are there, 1 to do" in finish(tmp_path)[0]
    assert ran(toy) == ["two"]
    found = table(tmp_path)
    assert found["setting"].value_counts().to_dict() == {"one": 5, "two": 10, "three": 5}
    assert found["recipe"][found["setting"] == "two"].nunique() == 2


def test_a_setting_of_another_protocol_is_another(toy, tmp_path):
    finish(tmp_path)
    ran(toy)
    toy.protocol = "smoke"
    finish(tmp_path)
    assert ran(toy) == ["one", "two", "three"]


def test_only_some_experiments_are_run_if_some_are_named(toy, tmp_path):
    finish(tmp_path, only=["odd"])
    assert ran(toy) == ["two"]
    finish(tmp_path, only=["even", "odd"])
    assert ran(toy) == ["one", "three"]


def test_numbers_and_texts_do_not_change_when_the_table_is_written_again(
    toy, tmp_path, monkeypatch
):
    """Numbers with all their digits; names and commits that look like other numbers."""
    draws = torch.Generator().manual_seed(0)
    values = torch.rand(500, generator=draws, dtype=torch.float64).tolist()
    names = ["007", "1e3", "1.50", "12"]
    monkeypatch.setattr(OF_RUN, "_commit", lambda: "001234567890")
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
    for call in (reproduce.settings, lambda name: list(run(name, tmp_path))):
        with pytest.raises(
            ValueError,
            match="name must be one of student, hinton, fitnets, fsp, ban, ban_lm, got 'teacher'",
        ):
            call("teacher")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_experiment_is_refused_and_the_known_ones_are_named(toy, tmp_path):
    with pytest.raises(ValueError, match="only must name some of even, odd, got 'prime'"):
        finish(tmp_path, only=["even", "prime"])
    assert ran(toy) == []


@pytest.mark.parametrize("columns", [COLUMNS[:-1], [*COLUMNS, "note"], COLUMNS[::-1]])
def test_a_table_of_other_columns_is_refused_and_left_alone(toy, tmp_path, columns):
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
    toy.lines["three"] = "recipe 3"
    toy.lines["four"] = "recipe 4"
    finish(tmp_path)
    del toy.lines["four"]
    assert list(dict.fromkeys(table(tmp_path)["setting"])) == ["two", "one", "three", "four"]
    assert ship("toy", tmp_path) == shipped / "toy.csv"
    finish(tmp_path / "in one go")
    pd.testing.assert_frame_equal(table(shipped), table(tmp_path / "in one go"))


def test_ship_refuses_a_table_that_lacks_a_setting(toy, tmp_path, shipped):
    finish(tmp_path, only=["even"])
    with pytest.raises(ValueError, match=f"odd: two is not in {tmp_path}; run it first"):
        ship("toy", tmp_path)
    finish(tmp_path)
    toy.lines["three"] = "recipe 3, longer"
    with pytest.raises(ValueError, match="even: three is not in"):
        ship("toy", tmp_path)
    assert list(shipped.iterdir()) == []
    with pytest.raises(ValueError, match="out must hold toy.csv, got .*elsewhere"):
        ship("toy", tmp_path / "elsewhere")


def test_ship_refuses_a_setting_that_is_there_twice(toy, tmp_path, shipped):
    finish(tmp_path)
    lines = (tmp_path / "toy.csv").read_text().splitlines()
    (tmp_path / "toy.csv").write_text("\n".join([*lines, *lines[-5:], ""]))
    with pytest.raises(ValueError, match="even: three is in .* more than once"):
        ship("toy", tmp_path)
    assert list(shipped.iterdir()) == []


def test_ship_refuses_smoke(toy, tmp_path, shipped):
    toy.protocol = "smoke"
    finish(tmp_path)
    with pytest.raises(ValueError, match="KDLIB_PROFILE must not be smoke"):
        ship("toy", tmp_path)
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
    assert found["student_seed"].isna().tolist() == [False, False, False, True, True] * 3
    means = found[found["metric"] == "test_errors"].groupby("setting")["value"].mean()
    assert means.to_dict() == {"one": 31, "two": 31, "three": 51}


def test_results_names_the_tables_there_are(shipped):
    for name in ("student", "fitnets"):
        (shipped / f"{name}.csv").write_text("")
    with pytest.raises(ValueError, match="name must be one of fitnets, student, got 'born_again'"):
        results("born_again")


def test_every_shipped_row_is_of_a_setting_of_this_code_and_every_setting_is_shipped(monkeypatch):
    """A table does not outlive its code: who changes a recipe runs it anew."""
    monkeypatch.setenv("KDLIB_PROFILE", "lesson")
    shipped = sorted(path.stem for path in tables.SHIPPED.glob("*.csv"))
    if not shipped:
        pytest.skip("no table is shipped yet")
    assert set(shipped) <= set(PROTOCOLS)
    for name in shipped:
        found = set(results(name)[WHAT].itertuples(index=False, name=None))
        settings = {setting.key for setting in reproduce.settings(name)}
        assert found - settings == set(), "rows that no setting of this code would give"
        begun = {protocol for _, _, protocol, _ in found}
        of_begun = {key for key in settings if key[2] in begun}
        assert of_begun - found == set(), "settings that the table does not have"


# Against a paper


def test_a_papers_numbers_stand_beside_the_mean_and_interval_of_ours(toy, tmp_path):
    toy.lines = {"one": "recipe 1", "teacher, seed 0": "recipe 2", "teacher, seed 1": "recipe 3"}
    toy.PAPER = (
        reproduce.Published("students", 40, "even", "one"),
        reproduce.Published("shares", 0.5, "even", "teacher", "share"),
    )
    finish(tmp_path)
    found = reproduce.against_the_paper("toy", table(tmp_path))
    assert list(found.index) == ["students", "shares"]
    ours = kd.interval([30, 31, 32])
    assert found.loc["students"].tolist() == [40, 31, ours.low, ours.high, 3]
    assert found.loc["shares"].tolist() == pytest.approx([0.5, 0.3, 0.3, 0.3, 2])


def test_a_number_that_the_table_lacks_and_a_protocol_of_no_paper_are_refused(toy, tmp_path):
    finish(tmp_path)
    with pytest.raises(ValueError, match="name must be a paper's protocol, got 'toy'"):
        reproduce.against_the_paper("toy", table(tmp_path))
    toy.PAPER = (reproduce.Published("losses", 40, "even", "one", "test_loss"),)
    with pytest.raises(ValueError, match="table must have test_loss of even: one .* got 0"):
        reproduce.against_the_paper("toy", table(tmp_path))


# The command


def test_the_command_runs_prints_and_ships(toy, tmp_path, shipped, capsys):
    def printed(*arguments):
        command.main(["toy", "--out", str(tmp_path), *arguments])
        return [line.split("  ")[-1] for line in capsys.readouterr().out.splitlines()[1:]]

    assert printed("--only", "odd") == ["odd: two"]
    assert printed("--only", "odd", "even") == ["even: one", "even: three"]
    assert printed() == []
    ran(toy)
    command.main(["toy", "--out", str(tmp_path), "--ship"])
    assert capsys.readouterr().out == f"{shipped / 'toy.csv'}\n"
    assert ran(toy) == []
    assert len(results("toy")) == 15


@pytest.mark.parametrize("count", ["0", "-1", "two"])
def test_the_command_refuses_another_number_of_workers(toy, tmp_path, capsys, count):
    with pytest.raises(SystemExit):
        command.main(["toy", "--out", str(tmp_path), "--workers", count])
    assert f"must be a whole number of at least 1, got {count}" in capsys.readouterr().err
    assert ran(toy) == []


def test_the_command_refuses_workers_beside_a_cluster(toy, tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main(["toy", "--workers", "2", "--dask", "tcp://127.0.0.1:1"])
    assert "not allowed with argument --workers" in capsys.readouterr().err


def test_the_command_writes_to_results_if_not_told_where(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command.main(["toy"])
    assert len(table(tmp_path / "results")) == 15


def test_the_command_refuses_an_unknown_protocol(capsys):
    with pytest.raises(SystemExit):
        command.main(["teacher"])
    assert "invalid choice: 'teacher'" in capsys.readouterr().err


def test_the_command_line_runs_a_protocol(tmp_path):
    """Its own process: what a reader types."""
    subprocess.run(
        [sys.executable, "-m", "kdlib.reproduce", "student", "--only", "annet"],
        cwd=tmp_path,
        env=os.environ | {"KDLIB_PROFILE": "smoke", "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        timeout=300,
    )
    found = table(tmp_path / "results", "student")
    assert found["setting"].unique().tolist() == ["labels", "as printed", "mended"]
    assert set(found["experiment"]) == {"annet"}
    assert set(found["protocol"]) == {"smoke"}


# Workers


@pytest.fixture
def smoke(monkeypatch):
    """The students' protocol at smoke size, and nothing of it left in memory afterwards."""
    monkeypatch.setenv("KDLIB_PROFILE", "smoke")
    for cached in (student._data, student._teacher):
        cached.cache_clear()
    yield
    for cached in (student._data, student._teacher):
        cached.cache_clear()


@pytest.fixture
def one_thread():
    """As many as each of two workers has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def same_rows(one, other):
    """Tables of one protocol, whatever the order of their settings and the time they took."""
    by = [*WHAT, "metric", "student_seed"]
    found, expected = (
        table(out, "student").sort_values(by, ignore_index=True).drop(columns="seconds")
        for out in (one, other)
    )
    pd.testing.assert_frame_equal(found, expected, rtol=1e-6)


def test_two_workers_measure_what_one_does_and_may_be_stopped_midway(tmp_path, smoke, one_thread):
    only = ["all images", "weak teacher"]
    alone = list(run("student", tmp_path / "alone", only=only))
    with command._executor(2, None) as executor:
        lines = run("student", tmp_path / "two", executor=executor, only=only)
        by_workers = [next(lines) for _ in range(3)]
        lines.close()
    assert table(tmp_path / "two", "student")["setting"].nunique() == 2
    rest = list(run("student", tmp_path / "two", only=only))
    assert by_workers[0].endswith("0 settings are there, 4 to do")
    assert rest[0].endswith("2 settings are there, 2 to do")
    assert sorted(by_workers[1:] + rest[1:]) == sorted(alone[1:])
    same_rows(tmp_path / "two", tmp_path / "alone")


def test_a_worker_that_fails_takes_nothing_away_from_the_others(tmp_path, smoke, monkeypatch):
    """A worker of the pool does not know what is planted here: settings of no known key fail there."""
    known = student.settings()
    planted = [known[0].__class__("broken", "none", "smoke", "unknown", list)]
    some = [s for s in known if s.experiment == "all images"]
    monkeypatch.setattr(student, "settings", lambda: planted + some)
    with (
        command._executor(2, None) as executor,
        pytest.raises(RuntimeError, match="broken: none failed .* must be the same there as here"),
    ):
        list(run("student", tmp_path, executor=executor))
    assert table(tmp_path, "student")["setting"].nunique() == len(some) == 3


def test_a_worker_that_is_killed_takes_nothing_away_and_the_rest_is_run_later(tmp_path, smoke):
    with command._executor(2, None) as executor, pytest.raises(RuntimeError) as failed:
        for done, _ in enumerate(run("student", tmp_path, executor=executor, only=["controls"])):
            if done == 2:
                os.kill(next(iter(executor._processes)), signal.SIGKILL)
    assert isinstance(failed.value.__cause__, BrokenProcessPool)
    kept = table(tmp_path, "student")["setting"].nunique()
    assert 2 <= kept < len(student.WAYS)
    assert f"{kept} settings are there" in next(run("student", tmp_path, only=["controls"]))


def test_threads_that_share_a_process_measure_one_at_a_time(tmp_path, smoke, one_thread):
    """fit seeds torch's own generator, which all threads share."""
    only = ["all images"]
    with ThreadPoolExecutor(3) as executor:
        list(run("student", tmp_path / "threads", executor=executor, only=only))
    list(run("student", tmp_path / "alone", only=only))
    same_rows(tmp_path / "threads", tmp_path / "alone")


def test_a_cluster_that_loses_a_worker_midway_loses_nothing_and_counts_nothing_twice(
    tmp_path, smoke, one_thread, capsys
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
    same_rows(tmp_path / "cluster", tmp_path / "alone")


def test_measured_gives_one_number_a_seed_in_their_order():
    rows = [
        ("a", "x", 2, 20.0),
        ("a", "x", 1, 10.0),
        ("a", "t, seed 1", None, 7.0),
        ("b", "x", 1, 5.0),
    ]
    table = pd.DataFrame(rows, columns=["experiment", "setting", "student_seed", "value"])
    table = table.assign(metric="test_errors", teacher_seed=0)
    assert reproduce.measured(table, "a", "x") == [10.0, 20.0]
    assert (
        reproduce.measured(table, "a", "t") == reproduce.measured(table, "a", "t, seed 1") == [7.0]
    )
    for wanted, message in (
        (("c", "x"), "experiment must be one of 'a', 'b', got 'c'"),
        (("b", "t"), "setting must be one of 'x', got 't'"),
        (("a", "x", "loss"), "metric must be one of 'test_errors', got 'loss'"),
    ):
        with pytest.raises(ValueError, match=message):
            reproduce.measured(table, *wanted)


def test_of_two_protocols_the_papers_own_stands_beside_the_paper(monkeypatch):
    published = reproduce.Published("errors", 5, "a", "x")
    module = SimpleNamespace(PAPER=(published,))
    monkeypatch.setattr(tables, "import_module", lambda name: module)
    rows = [("short", 30.0), ("short", 32.0), ("paper", 9.0), ("paper", 11.0)]
    table = pd.DataFrame(rows, columns=["protocol", "value"])
    table = table.assign(experiment="a", setting="x", metric="test_errors")
    assert reproduce.against_the_paper("toy", table)["ours"].item() == 10
    assert reproduce.against_the_paper("toy", table[:2])["ours"].item() == 31


@pytest.fixture
def toy_of_two(toy, monkeypatch):
    """Setting ``three`` belongs to a second protocol."""
    of_one = toy.settings
    monkeypatch.setattr(
        toy,
        "settings",
        lambda: [replace(s, protocol="paper") if s.setting == "three" else s for s in of_one()],
    )
    return toy


def test_the_first_of_two_protocols_is_run_unless_another_is_asked_for(toy_of_two, tmp_path):
    first, *_ = run("toy", tmp_path)
    assert first.endswith("0 settings are there, 2 to do")
    assert toy_of_two.ran == ["one", "two"]
    assert len(list(run("toy", tmp_path, protocol="paper"))) == 2
    assert toy_of_two.ran == ["one", "two", "three"]
    with pytest.raises(ValueError, match="protocol must be one of short, paper, got 'long'"):
        list(run("toy", tmp_path, protocol="long"))


def test_protocols_are_shipped_whole_and_those_that_were_not_begun_are_not_asked_for(
    toy_of_two, tmp_path, shipped
):
    list(run("toy", tmp_path, protocol="paper"))
    ship("toy", tmp_path)
    assert set(table(shipped)["protocol"]) == {"paper"}
    list(run("toy", tmp_path, only=["even"]))  # of the first protocol only "one"
    with pytest.raises(ValueError, match="odd: two is not in"):
        ship("toy", tmp_path)
    list(run("toy", tmp_path))
    ship("toy", tmp_path)
    assert list(dict.fromkeys(table(shipped)["setting"])) == ["one", "two", "three"]


def test_the_command_line_knows_the_protocol(toy_of_two, tmp_path):
    command.main(["toy", "--out", str(tmp_path), "--protocol", "paper"])
    assert toy_of_two.ran == ["three"]
