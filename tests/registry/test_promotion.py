"""Who becomes champion, and what the history says of it."""

import json
import os
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from erasediff import tracking
from erasediff.artifacts import sha256_folder
from erasediff.errors import GateFailed, IntegrityError, ModelError, WouldUnerase
from erasediff.registry.promotion import champion_at, history, promote, promote_initial, withdraw
from erasediff.registry.publishing import register_version
from erasediff.registry.versions import aliases
from erasediff.tracking import server

FOLDER = Path("models/erased")


def version(erasures, passed="true"):
    """A version that has forgotten these."""
    number = str(len(server.client().search_model_versions("name = 'm'")) + 1)
    tags = {"lineage_digest": number, "gates_passed": passed, "erased_sha256": sha256_folder(FOLDER)}
    tags |= {"erasures": json.dumps(erasures), "example_concept": "a"}
    with tracking.stage_run("register", {}) as run:
        assert register_version("m", run.run_id, FOLDER, tags, [], "card", "a") == number
    return number


@pytest.mark.pipeline
def test_going_back_does_not_bring_back_what_was_forgotten(store):
    """Three erasures, each from the champion before it."""
    for forgotten in (["x"], ["x", "y"], ["x", "y", "z"]):
        promote_initial("m", version(forgotten))
    assert aliases("m") == {"challenger": "3", "champion": "1"}
    before = history("m")[-1].at
    assert promote("m", "2", why="asked by y", by="ann") == "2"
    between = history("m")[-1].at
    assert promote("m", why="asked by z", by="ann") == "3"
    assert aliases("m") == {"challenger": "3", "champion": "3", "previous_champion": "2"}
    with pytest.raises(
        WouldUnerase, match="version 2 of m still draws z, which the champion .version 3. has forgotten"
    ):
        promote("m", "previous_champion", why="z looks bad")
    with pytest.raises(WouldUnerase, match="still draws y, z, which"):
        promote("m", "1", why="z looks bad")
    with pytest.raises(WouldUnerase, match="still draws y, which"):
        promote("m", "1", why="z looks bad", brings_back=["z"])
    assert aliases("m")["champion"] == "3"
    assert promote("m", "previous_champion", why="z withdrew", by="bob", brings_back=["z"]) == "2"
    assert aliases("m") == {"challenger": "3", "champion": "2", "previous_champion": "3"}
    champions = [(m.before, m.after, m.by, m.why) for m in history("m") if m.alias == "champion"]
    assert champions == [
        ("", "1", "the erase flow", "gates passed"),
        ("1", "2", "ann", "asked by y"),
        ("2", "3", "ann", "asked by z"),
        ("3", "2", "bob", "z withdrew; brings back z"),
    ]
    assert [champion_at("m", at) for at in (before - timedelta(days=1), before, between)] == [None, "1", "2"]
    assert not (store / "mlruns").exists()


@pytest.mark.pipeline
def test_after_a_withdrawal_nobody_is_champion_and_nothing_comes_back_unseen(store):
    promote_initial("m", version(["x"]))
    promote("m", version(["x", "y"]), why="asked by y")
    with pytest.raises(ModelError, match="version 1 of m is not the champion, which is 2: look again"):
        withdraw("m", "1", why="failed")
    withdraw("m", "2", why="failed its recheck", by="ann")
    assert aliases("m") == {"challenger": "1", "previous_champion": "1"}
    last = history("m")[-1]
    assert (last.alias, last.before, last.after, last.by) == ("champion", "2", "", "ann")
    assert champion_at("m", last.at) is None
    # The next version that passes does not become champion by itself, and the erasures of the withdrawn one count.
    assert "champion" not in promote_initial("m", version(["x"]))
    with pytest.raises(WouldUnerase, match="version 3 of m still draws y, which the champion .version 2. has"):
        promote("m", why="next")
    good = version(["x", "y"])
    server.client().set_model_version_tag("m", good, "recheck_passed", "false")
    with pytest.raises(GateFailed, match="version 4 of m failed its recheck"):
        promote("m", good, why="next")
    assert promote("m", why="y withdrew", brings_back=["y"]) == "3" == aliases("m")["champion"]


@pytest.mark.pipeline
def test_what_cannot_become_champion(store):
    promote_initial("m", version([]))
    failed = version([], passed="false")
    with pytest.raises(GateFailed, match="version 2 of m did not pass its gates: it cannot become champion"):
        promote("m", failed, why="x")
    with pytest.raises(ModelError, match="version 1 of m is champion already"):
        promote("m", why="x")
    good = version([])

    def refuse(found, champion):
        assert (found.uri, champion) == ("models:/m/3", "1")
        raise ModelError("it does not draw")

    with pytest.raises(ModelError, match="it does not draw"):
        promote("m", good, why="x", check=refuse)
    weights = next((store / "mlartifacts").rglob(f"*{server.client().get_model_version('m', good).source[-8:]}*"))
    file = next(weights.rglob("diffusion_pytorch_model.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="is not what was registered"):
        promote("m", good, why="x")
    assert aliases("m") == {"challenger": "1", "champion": "1"} and len(history("m")) == 2


@pytest.mark.pipeline
def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(store):
    promote_initial("m", version([]))
    versions, outcome, both = [version([]), version([])], {}, threading.Barrier(2, timeout=60)

    def attempt(number):
        try:
            outcome[number] = promote("m", number, why="race", check=lambda found, champion: both.wait() and None)
        except ModelError as error:
            outcome[number] = str(error)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner = aliases("m")["champion"]
    loser = next(number for number in versions if number != winner)
    assert outcome == {winner: winner, loser: f"the champion of m changed from 1 to {winner}: look again"}


@pytest.mark.pipeline
def test_a_move_that_was_killed_is_settled_by_the_next(store, monkeypatch):
    promote_initial("m", version([]))
    second, third = version([]), version([])
    plain = server.client

    class Killed(BaseException):
        pass

    class Client:
        """Dies after moving the alias, before the note is finished."""

        def __getattr__(self, name):
            return getattr(plain(), name)

        def set_terminated(self, *arguments):
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(server, "client", Client)
        promote("m", second, why="killed")
    assert aliases("m") == {"challenger": "1", "champion": "1", "previous_champion": "1"}
    promote("m", third, why="next")
    moves = [(m.alias, m.before, m.after, m.why) for m in history("m")]
    assert moves[2:] == [
        ("previous_champion", "", "1", "killed"),
        ("previous_champion", "1", "1", "next"),
        ("champion", "1", third, "next"),
    ]


@pytest.mark.pipeline
def test_the_command(store):
    promote_initial("m", version(["x"]))
    version(["x"])

    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def run(*arguments, code=0):
        command = [sys.executable, "-m", "flows.promote", "--model", "m", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    assert run("challenger", "--version", "2", "--why", "looks better") == "champion of m is version 2\n"
    said = run("history")
    assert "champion             1 → 2" in said and "looks better" in said
    assert run("history", "--at", "2020-01-01") == "m had no champion\n"
    assert run("history", "--at", "2999-01-01") == "m version 2\n"
    assert "ParamsError: --at 'soon' is no date" in run("history", "--at", "soon", code=2)
    assert run("rollback", "--why", "it was better") == "champion of m is version 1\n"
