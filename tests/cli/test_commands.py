"""The commands, as people run them: help with an example, clear errors, exit statuses, and keys that work at once."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from headgate.cli.main import parser
from tests.cli.shell import CONFIG, Shell
from tests.live import Live, serving, until


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def choices(command: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands below a command."""
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def commands() -> Iterator[list[str]]:
    """Every command and action there is."""
    for name, command in choices(parser()).items():
        yield [name]
        yield from ([name, action] for action in choices(command))


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_every_command_explains_itself_with_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([*command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"example:\n  headgate {' '.join(command)}" in text


def test_wrong_usage_ends_with_2_and_says_how_it_goes(shell: Shell) -> None:
    for arguments in ([], ["nothing"], ["keys"], ["serve", "--port", "many"], ["serve", "--port", "99999"]):
        done = shell.run(*arguments)
        assert done.returncode == 2, arguments
        assert "Traceback" not in done.stderr
        assert done.stderr


def test_a_bad_file_fails_the_check_with_file_and_line(shell: Shell) -> None:
    (shell.folder / "bad.yaml").write_text("server:\n  prot: 1\n")
    done = shell.start("config", "check", "bad.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("headgate: bad.yaml:2: unknown setting 'prot'")
    assert shell.start("serve", "--config", "bad.yaml").returncode == 2
    assert shell.run("config", "check", "none.yaml").returncode == 2


def test_a_good_file_and_no_file_pass_the_check(shell: Shell, tmp_path: Path) -> None:
    assert shell.start("config", "check").stdout == "headgate.yaml: valid\n"
    done = Shell(tmp_path / "empty", None).run("config", "check")
    assert (done.returncode, "defaults" in done.stdout) == (0, True)


def test_show_and_schema_print_json(shell: Shell) -> None:
    assert json.loads(shell.run("config", "show").stdout)["backends"][0]["name"] == "demo"
    assert "$defs" in json.loads(shell.run("config", "schema").stdout)


def test_models_says_what_would_be_served_and_from_where(shell: Shell) -> None:
    done = shell.run("models")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == ["one", "demo:one", "-"]
    assert json.loads(shell.run("models", "--json").stdout)[0]["name"] == "one"
    (shell.folder / "headgate.yaml").write_text("engine: {enabled: false}\ndiscover: false\n")
    assert "There are no models" in shell.run("models").stdout


def test_the_doctor_says_what_it_saw_and_its_status_agrees(shell: Shell) -> None:
    done = shell.run("doctor", "--json")
    findings = json.loads(done.stdout)
    assert {"python", "disk", "port", "backend demo"} <= {finding["check"] for finding in findings}
    assert done.returncode == (0 if all(finding["ok"] for finding in findings) else 1)
    assert all(finding["seen"] and finding["remedy"] is not None for finding in findings)
    text = shell.run("doctor").stdout
    assert "backend demo: scripted: there is no model behind it" in text


def test_the_doctor_tells_of_a_server_that_does_not_answer(shell: Shell) -> None:
    more = "- {name: far, base_url: 'http://127.0.0.1:9/v1', models: [x]}\n"
    (shell.folder / "headgate.yaml").write_text(CONFIG + more)
    done = shell.run("doctor", "--home", str(shell.folder / "not" / "there" / "yet"))
    assert done.returncode == 1, done.stderr
    assert "FAIL  backend far:" in done.stdout
    assert "→ Check its address and key" in done.stdout


def test_keys_work_without_a_server_and_mistakes_are_explained(shell: Shell) -> None:
    assert "There are no keys yet" in shell.run("keys", "list").stdout
    made = shell.run("keys", "create", "--name", "ci", "--tenant", "acme", "--expires-in", "30d", "--model", "gpt-*")
    assert made.stdout.startswith("hg-")
    assert "cannot be shown again" in made.stdout
    listing = shell.run("keys", "list").stdout
    assert "acme" in listing
    assert "until " in listing
    assert made.stdout.split()[0] not in listing
    for arguments in (("create", "--expires-in", "soon"), ("revoke", "key_x"), ("create", "--concurrency", "0")):
        done = shell.run("keys", *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("headgate: ")
        assert "Traceback" not in done.stderr
    assert shell.run("keys", "create", "--expires-in", "999999999999d").returncode == 1
    assert shell.run("keys", "list").returncode == 0


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tmp_path_factory.mktemp("cli"), CONFIG) as server:
        yield server


def test_keys_made_and_revoked_beside_a_running_server_work_within_a_moment(live: Live) -> None:
    shell = Shell(live.home, None)
    made = json.loads(shell.start("keys", "create", "--name", "app", "--json").stdout)
    until(lambda: live.get("/v1/models", made["key"])[0] == 200, 3)
    assert live.get("/admin/keys", made["key"])[0] == 403
    assert any(record["name"] == "app" for record in json.loads(shell.run("keys", "list", "--json").stdout))
    revoked = shell.run("keys", "revoke", made["record"]["id"])
    assert revoked.returncode == 0
    until(lambda: live.get("/v1/models", made["key"])[0] == 401, 3)
    assert made["key"] not in live.log_path.read_text()


def test_the_doctor_recognises_a_running_headgate(live: Live) -> None:
    shell = Shell(live.home, None)
    (live.home / "beside.yaml").write_text(CONFIG + f"server: {{port: {live.port}}}\n")
    findings = json.loads(shell.run("doctor", "--config", "beside.yaml", "--json").stdout)
    (port,) = [finding for finding in findings if finding["check"] == "port"]
    assert port["ok"]
    assert "a Headgate server answers" in port["seen"]
