"""Who becomes champion, and what the history says of it."""

import re
import runpy
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from mlflow.exceptions import MlflowException
from registering import stored, version

from erasediff.checkout import user_name
from erasediff.errors import GateFailed, IntegrityError, ModelError, ParamsError, TrackingError, WouldUnerase
from erasediff.loading import load
from erasediff.registry import history as history_module
from erasediff.registry import promotion
from erasediff.registry.history import champion_at, history
from erasediff.registry.promotion import promote, promote_initial, withdraw
from erasediff.registry.versions import aliases
from erasediff.tracking import server


@pytest.mark.pipeline
def test_what_cannot_be_told_is_no_pass_and_says_how_many_pictures_would_do(store):
    told = "0.9500 (0.8784 to 0.9804) ≥ 0.9 cannot be told with 80 pictures: 139 would do"
    untold = version(
        ["x"], "undecided", **{"gate.unlearning_accuracy": told, "gate.fd_classifier_ratio": "1 ≤ 2 passed"}
    )
    says = re.escape(f"is not known to pass its gates (unlearning_accuracy {told}), draw more pictures")
    for promoting in (lambda: promote_initial("m", untold), lambda: promote("m", untold, why="soon", by="ann")):
        with pytest.raises(GateFailed, match=says):
            promoting()
    unproven = version(["x"], "undecided", not_proven="self-check: a copy of the base should be FAILED, and is passed")
    with pytest.raises(GateFailed, match="a copy of the base should be FAILED"):
        promote_initial("m", unproven)
    assert aliases("m") == {}


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
        ("", "1", f"{user_name()}, by the erase flow", "gates passed"),
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
        assert (found.uri, champion.alias) == ("models:/m/3", "1")
        raise ModelError("it does not draw")

    with pytest.raises(ModelError, match="it does not draw"):
        promote("m", good, why="x", check=refuse)
    file = next(stored(good).rglob("diffusion_pytorch_model.safetensors"))
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
def test_an_alias_that_another_made_in_the_same_moment_is_set_all_the_same(store, monkeypatch):
    promote_initial("m", version([]))
    second, plain, calls = version([]), server.client, []

    class Client:
        def __getattr__(self, name):
            if name != "set_registered_model_alias":
                return getattr(plain(), name)

            def first_refused(*arguments):
                calls.append(arguments)
                if len(calls) == 1:
                    raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed")
                return plain().set_registered_model_alias(*arguments)

            return first_refused

    monkeypatch.setattr(server, "client", Client)
    assert promote("m", second, why="now") == second and aliases("m")["champion"] == second
    assert calls[0] == calls[1]


class Killed(BaseException):
    pass


@pytest.mark.pipeline
@pytest.mark.parametrize(
    "at, moved", [("log_param", False), ("set_registered_model_alias", False), ("set_terminated", True)]
)
def test_a_move_that_was_killed_is_settled_by_the_next(store, monkeypatch, at, moved):
    promote_initial("m", version([]))
    second, third = version([]), version([])
    plain = server.client

    class Client:
        """Dies where it would decide the move, carry it out, or finish the note."""

        def __getattr__(self, name):
            def killed(*arguments):
                raise Killed

            return killed if name == at else getattr(plain(), name)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(server, "client", Client)
        promote("m", second, why="killed")
    assert aliases("m").get("champion") == (second if moved else "1")
    assert [move.why for move in history("m") if move.alias == "champion"] == ["gates passed"] + moved * ["killed"]
    promote("m", third, why="next")
    decided = at != "log_param"
    moves = [(m.before, m.after, m.why) for m in history("m") if m.alias == "champion"]
    killed = [("1", second, "killed")] if decided else []
    assert moves == [("", "1", "gates passed"), *killed, (second if decided else "1", third, "next")]
    assert aliases("m")["previous_champion"] == (second if decided else "1")


PROMOTER = """
import os, sys, time
from pathlib import Path
from erasediff.errors import EraseDiffError
from erasediff.registry.promotion import promote
root, number = sys.argv[1:]
os.environ["DVC_ROOT"] = root  # another machine: it shares nothing but the server

def check(found, before):
    Path(root).joinpath("ready").touch()
    while not all(Path(root).with_name(name).joinpath("ready").exists() for name in "ab"):
        time.sleep(0.01)

try:
    print("won", promote("m", number, why="race", check=check))
except EraseDiffError as error:
    print("told", error)
"""


@pytest.mark.pipeline
def test_of_two_machines_that_promote_at_once_one_wins_and_the_other_is_told(store, monkeypatch):
    promote_initial("m", version([]))
    numbers = [version([]), version([])]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    started = []
    for root, number in zip("ab", numbers, strict=True):
        (store / root).mkdir()
        command = [sys.executable, "-c", PROMOTER, str(store / root), number]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=240)[0].strip() for process in started]
    winner = aliases("m")["champion"]
    assert winner in numbers
    (loser,) = set(numbers) - {winner}
    assert said[numbers.index(winner)] == f"won {winner}"
    assert said[numbers.index(loser)] == f"told the champion of m changed from 1 to {winner}: look again"
    assert [(m.before, m.after) for m in history("m") if m.alias == "champion"] == [("", "1"), ("1", winner)]


@pytest.mark.pipeline
def test_the_order_of_moves_is_not_that_of_clocks(store, monkeypatch):
    class Clock(datetime):
        ahead = timedelta(days=2)

        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + cls.ahead

    monkeypatch.setattr(promotion, "datetime", Clock)
    promote_initial("m", version(["x"]))
    promote("m", version(["x"]), why="next")
    Clock.ahead = timedelta(0)  # the clock is set right
    withdraw("m", "2", why="failed")
    assert [(m.before, m.after) for m in history("m") if m.alias == "champion"] == [("", "1"), ("1", "2"), ("2", "")]
    assert champion_at("m", datetime.now(UTC) + timedelta(days=9)) is None
    assert "champion" not in promote_initial("m", version(["x"]))


@pytest.mark.pipeline
def test_a_champion_that_was_deleted_in_mlflow_still_counts(store):
    promote_initial("m", version(["x"]))
    promote("m", version(["x", "y"]), why="asked by y")
    server.client().delete_model_version("m", "2")
    assert "champion" not in aliases("m")
    with pytest.raises(WouldUnerase, match="version 1 of m still draws y, which the champion .version 2. has forg"):
        promote("m", "previous_champion", why="2 is gone")
    assert "champion" not in promote_initial("m", version(["x"]))
    assert promote("m", "1", why="y withdrew", brings_back=["y"]) == "1"
    last = [m for m in history("m") if m.alias == "champion"][-1]
    assert (last.before, last.after) == ("2", "1") and "previous_champion" in aliases("m")


@pytest.mark.pipeline
def test_what_a_champion_of_the_history_forgot_counts_where_somebody_moved_the_alias_by_hand(store):
    promote_initial("m", version(["x"]))
    by_hand, next_one = version([]), version([])
    server.client().set_registered_model_alias("m", "champion", by_hand)
    with pytest.raises(WouldUnerase, match="still draws x"):
        promote("m", next_one, why="next")


@pytest.mark.pipeline
@pytest.mark.parametrize("tag", ["7", "{}", '["a", 1]', "[", "[" * 3000, "nichts", None])
def test_a_tag_that_does_not_say_what_was_forgotten_is_one_line(store, tag):
    promote_initial("m", version(["x"]))
    second = version(["x"])
    client = server.client()
    client.delete_model_version_tag("m", second, "erasures")
    if tag is not None:
        client.set_model_version_tag("m", second, "erasures", tag)
    with pytest.raises(IntegrityError, match=f"version {second} of m") as refused:
        promote("m", second, why="next")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200


@pytest.mark.unit
@pytest.mark.parametrize(
    "text, said",
    [
        ("", "why is empty"),
        ("  \n", "why is empty"),
        ("a\nb", r"control character '\\n'"),
        ("\x1b[31mred", r"control character '\\x1b'"),
        ("a\u2028b", "control character"),
        ("a\u202eb", "control character"),
        ("\ud800", "control character"),
        ("a" * 2001, "2001 characters"),
    ],
)
def test_a_reason_is_one_line_of_plain_text(text, said):
    with pytest.raises(ParamsError, match=said):
        promotion.reason(text)
    assert promotion.reason(promotion.plain(text)[:2000])
    assert promotion.reason("request 17: été, “quoted”") == "request 17: été, “quoted”"


@pytest.mark.pipeline
@pytest.mark.parametrize("file", ["served_model.py", "code/part.py", "code/added.py"])
def test_code_that_was_altered_is_neither_promoted_nor_loaded(store, file):
    promote_initial("m", version([]))
    second = version([])
    (stored(second) / file).write_text("import os\n")
    for attempt in (lambda: promote("m", second, why="next"), lambda: load(f"models:/m/{second}")):
        with pytest.raises(
            IntegrityError, match=f"the code files of version {second} of m are not what was registered"
        ):
            attempt()
    assert aliases("m")["champion"] == "1" and load("models:/m/1")


@pytest.mark.pipeline
def test_a_deleted_history_is_read_and_a_move_says_how_to_restore_it(store):
    promote_initial("m", version([]))
    second = version([])
    client = server.client()
    experiment = client.get_experiment_by_name(history_module.EXPERIMENT).experiment_id
    client.delete_experiment(experiment)
    assert [(m.alias, m.after) for m in history("m")] == [("challenger", "1"), ("champion", "1")]
    assert champion_at("m", datetime.now(UTC)) == "1"
    with pytest.raises(
        TrackingError, match=f"erasediff-aliases was deleted: mlflow experiments restore -x {experiment}"
    ):
        promote("m", second, why="next")
    client.restore_experiment(experiment)
    last = client.search_runs([experiment], "tags.alias = 'champion'")[0].info.run_id
    client.delete_run(last)
    assert champion_at("m", datetime.now(UTC)) == "1"
    with pytest.raises(TrackingError, match=f"restore it first, mlflow runs restore --run-id {last}"):
        promote("m", second, why="next")
    client.restore_run(last)
    assert promote("m", second, why="next") == second


@pytest.mark.pipeline
def test_the_first_champion_is_one_of_two_machines(store):
    first, second = version([]), version([])
    both = threading.Barrier(2, timeout=60)
    real = history_module._claim

    def claim(*arguments):
        with suppress(threading.BrokenBarrierError):
            both.wait(2)
        return real(*arguments)

    with patch.object(history_module, "_claim", claim):
        threads = [threading.Thread(target=promote_initial, args=("m", number)) for number in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    champions = [m for m in history("m") if m.alias == "champion"]
    assert len(champions) == 1 and aliases("m")["champion"] == champions[0].after
    assert sorted(m.after for m in history("m") if m.alias == "challenger") == [first, second]


@pytest.mark.pipeline
def test_notes_of_an_earlier_release_come_before_the_chain(store):
    number = version(["x"])
    client = server.client()
    experiment = client.create_experiment(history_module.EXPERIMENT)
    for at, alias in ((1000, "challenger"), (2000, "champion")):
        old = {"model": "m", "alias": alias, "from": "", "to": number, "by": "a", "why": "old", "evidence": "e"}
        run = client.create_run(experiment, start_time=at, tags=old)
        client.set_terminated(run.info.run_id, "FINISHED")
        client.set_registered_model_alias("m", alias, number)
    promote("m", version(["x"]), why="next")
    withdraw("m", "2", why="last")
    assert [m.why for m in history("m")] == ["old", "old", "next", "last"]


@pytest.mark.pipeline
def test_the_command(store, monkeypatch, capsys):
    promote_initial("m", version(["x"]))
    version(["x"])

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # of the process that draws

    def run(*arguments, code=0, model="m"):
        monkeypatch.setattr(sys, "argv", ["promote", "--model", model, *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("flows.promote", run_name="__main__")
        said = "".join(capsys.readouterr())
        assert ended.value.code == code, said
        return said

    assert run("challenger", "--version", "2", "--why", "looks better") == "champion of m is version 2\n"
    said = run("history")
    assert "champion             1 → 2" in said and "looks better" in said
    assert run("history", "--at", "2020-01-01") == "m had no champion\n"
    assert run("history", "--at", "2999-01-01") == "m version 2\n"
    assert "ParamsError: --at 'soon' is no date" in run("history", "--at", "soon", code=2)
    assert run("rollback", "--why", "it was better") == "champion of m is version 1\n"
    said = run("rollback", "--why", "a\nb", code=2)
    assert said == r"ParamsError: why has the control character '\n': give one line of plain text" + "\n"
    typo = "ModelError: the registry has no model 'typo'; it has: m\n"
    for arguments in (("history",), ("history", "--at", "2999-01-01")):
        assert run(*arguments, model="typo", code=1) == typo
