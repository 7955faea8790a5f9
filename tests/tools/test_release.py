"""Publishing: versions that agree, workflows whose parts exist, a wheel that is tried where it was installed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import package_page
import pytest
import release
import try_wheel
import yaml

import kdlib as kd

ROOT = Path(__file__).resolve().parents[2]
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
WORKFLOWS = {p.name: yaml.safe_load(p.read_text()) for p in (ROOT / ".github/workflows").iterdir()}
JOBS = [
    pytest.param(workflow, job, id=f"{name}, {job_name}")
    for name, workflow in WORKFLOWS.items()
    for job_name, job in workflow["jobs"].items()
]


def test_every_file_names_the_version_of_the_library():
    """If this fails: python tools/release.py VERSION says which file differs."""
    assert release.disagreements(kd.__version__) == []
    assert release.news().startswith("- ") and "## " not in release.news()


AGREED = {
    "pyproject.toml": '[project]\nversion = "0.2.0"\n',
    "kdlib/__init__.py": '__version__ = "0.2.0"\n',
    "CITATION.cff": "cff-version: 1.2.0\nversion: 0.2.0\n",
    "CHANGELOG.md": "# Changelog\n\n## 0.2.0\n\n- News.\n\n## 0.1.0 (2026-01-02)\n\n- Old.\n",
}
DATED = {
    "CITATION.cff": "version: 0.2.0\ndate-released: 2026-02-03\n",
    "CHANGELOG.md": "## 0.2.0 (2026-02-03)\n- News.\n",
}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        (DATED, []),
        ({"pyproject.toml": 'version = "0.2"\n'}, ["pyproject.toml says 0.2, not 0.2.0"]),
        ({"kdlib/__init__.py": ""}, ["kdlib/__init__.py says None, not 0.2.0"]),
        ({"CITATION.cff": "version: 0.1.0\n"}, ["CITATION.cff says 0.1.0, not 0.2.0"]),
        ({"CHANGELOG.md": "## 0.3.0\n\n## 0.2.0\n"}, ["CHANGELOG.md says 0.3.0, not 0.2.0"]),
        ({"CHANGELOG.md": "## 0.2.0 (unreleased)\n"}, ["CHANGELOG.md says (unreleased)"]),
        ({"CITATION.cff": DATED["CITATION.cff"]}, ["2026-02-03, CHANGELOG.md says no day"]),
        ({"CHANGELOG.md": DATED["CHANGELOG.md"]}, ["no day, CHANGELOG.md says (2026-02-03)"]),
    ],
)
def test_a_release_is_refused_if_a_file_names_another_version_or_day(tmp_path, changed, expected):
    (tmp_path / "kdlib").mkdir()
    for name, text in (AGREED | changed).items():
        (tmp_path / name).write_text(text)
    found = release.disagreements("0.2.0", tmp_path)
    assert len(found) == len(expected) and all(e in f for e, f in zip(expected, found, strict=True))
    assert expected or release.news(tmp_path) == "- News."


def test_the_command_prints_the_news_or_exits_with_what_disagrees(capsys):
    release.main(kd.__version__)
    assert capsys.readouterr().out == f"{release.news()}\n"
    with pytest.raises(SystemExit, match=f"pyproject.toml says {kd.__version__}, not 99"):
        release.main("99")


@pytest.mark.parametrize(("workflow", "job"), JOBS)
def test_what_a_job_calls_exists(workflow, job):
    needs = job.get("needs", [])
    assert {*([needs] if isinstance(needs, str) else needs)} <= {*workflow["jobs"]}
    assert job["timeout-minutes"] <= 120
    for step in job["steps"]:
        assert re.fullmatch(r"[\w-]+/[\w-]+@(release/)?v\d+", step.get("uses", "a/b@v1"))
        command = step.get("run", "")
        for script in re.findall(r"python3? (\S+\.py)", command):
            assert (ROOT / script).is_file()
        for target in re.findall(r"\bmake ([\w-]+)", command):
            assert re.search(rf"(?m)^{target}:", (ROOT / "Makefile").read_text()), target


def test_a_release_gives_each_job_only_the_rights_it_needs():
    rights = {
        name: job["permissions"]
        for workflow in ("release.yml", "pages.yml")
        for name, job in WORKFLOWS[workflow]["jobs"].items()
    }
    assert WORKFLOWS["release.yml"]["permissions"] == WORKFLOWS["pages.yml"]["permissions"] == {}
    assert rights == {
        "build": {"contents": "read"},
        "pypi": {"id-token": "write"},
        "release": {"contents": "write"},
        "notebooks": {"contents": "write"},
        "pages": {"contents": "read", "pages": "write", "id-token": "write"},
    }


def test_a_tag_is_checked_built_and_tried_before_anything_is_published():
    made = WORKFLOWS["release.yml"]
    assert made[True] == {"push": {"tags": ["v*"]}}  # YAML reads the key `on` as a truth value
    commands = "\n".join(step.get("run", "") for step in made["jobs"]["build"]["steps"])
    steps = ("tools/release.py", "tools/package_page.py", "-m build", "tools/try_wheel.py dist/")
    places = [commands.find(step) for step in steps]
    assert places == sorted(places) and min(places) > 0
    others = {name: job for name, job in made["jobs"].items() if name != "build"}
    assert {job["needs"] for job in others.values()} == {"build"}
    assert others["pypi"]["if"] == "vars.PUBLISH_TO_PYPI == 'true'"


def test_the_pages_follow_a_release_that_succeeded():
    pages = WORKFLOWS["pages.yml"]
    assert pages[True]["workflow_run"]["workflows"] == [WORKFLOWS["release.yml"]["name"]]
    runs = pages["jobs"]["pages"]["if"].split(" && ")
    assert "github.event.workflow_run.event == 'push'" in runs  # of no fork's pull request
    assert "github.event.workflow_run.conclusion == 'success'" in runs


def test_no_workflow_and_no_form_names_an_address():
    for path in (ROOT / ".github").rglob("*.*"):
        assert not re.findall(r"https?://", path.read_text()), path


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_branch_colab_is_one_commit_of_the_published_copies(tmp_path):
    def git(*arguments, cwd=tmp_path / "clone"):
        done = subprocess.run(
            ["git", *arguments], cwd=cwd, check=True, capture_output=True, text=True
        )
        return done.stdout.split()

    git("init", "--quiet", "--bare", "hosted", cwd=tmp_path)
    git("clone", "--quiet", "hosted", "clone", cwd=tmp_path)
    copies = tmp_path / "clone/build/published/notebooks"
    copies.mkdir(parents=True)
    (tmp_path / "clone/.gitignore").write_text("build/\n")
    push = WORKFLOWS["release.yml"]["jobs"]["notebooks"]["steps"][-1]["run"]
    for tag, files in (("v1", {"a.ipynb", "b.ipynb"}), ("v2", {"b.ipynb"})):
        for name in ("a.ipynb", "b.ipynb"):
            (copies / name).unlink(missing_ok=True)
        for name in files:
            (copies / name).write_text(tag)
        subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", push],
            cwd=tmp_path / "clone", env=os.environ | {"GITHUB_REF_NAME": tag}, check=True,
        )  # fmt: skip
        hosted = tmp_path / "hosted"
        listed = git("ls-tree", "-r", "--name-only", "colab", cwd=hosted)
        assert {*listed} == {f"notebooks/{name}" for name in files}
        assert git("show", "colab:notebooks/b.ipynb", cwd=hosted) == [tag]
        assert git("rev-list", "--count", "colab", cwd=hosted) == ["1"]


def test_the_package_page_has_no_relative_link():
    base = "https://host.example/someone/kdlib"
    text = '[a](docs/a.md#x), [here](#b), <img src="docs/c.gif">, [out](https://example.org/d)'
    assert package_page.complete(text, base, "v1") == (
        f'[a]({base}/blob/v1/docs/a.md#x), [here]({base}#b), <img src="{base}/raw/v1/docs/c.gif">, '
        "[out](https://example.org/d)"
    )
    readme = package_page.complete((ROOT / "README.md").read_text(), base, "v1")
    links = re.findall(r"""\]\(([^)]*)|(?:src|href)=["']([^"']*)""", readme)
    assert len(links) > 20 and all("".join(link).startswith("https://") for link in links)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_has_what_the_hosting_side_asks_for(path):
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= {*form}
    assert len({field["id"] for field in form["body"]}) == len(form["body"])
    assert {field["type"] for field in form["body"]} <= {"textarea", "input"}
    assert all(field["attributes"]["label"] for field in form["body"])


def test_llms_txt_asks_the_questions_of_the_lessons():
    text = (ROOT / "llms.txt").read_text()
    assert re.match(r"# kdlib\n\n> ", text)  # the form that llmstxt.org asks for
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        lesson = json.loads(path.read_text())["metadata"]["kdlib"]["lesson"]
        assert f"- [{lesson['label']}](notebooks/{path.name}): {lesson['question']}\n" in text


def test_a_kdlib_from_elsewhere_is_not_taken_for_the_wheel(tmp_path, capfd):
    package = tmp_path / "kdlib"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '0'\nresults = lambda name: [1]")
    with pytest.raises(subprocess.CalledProcessError):
        try_wheel.tried(Path(sys.executable), tmp_path)
    assert f"kdlib came from {package}" in capfd.readouterr().err
    assert not (tmp_path / try_wheel.LESSON).exists()
