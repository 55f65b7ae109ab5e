import sys

import pytest

import merc.cli
from merc.cli import main
from merc.configs.lookup import expand_configs, shipped_configs


@pytest.mark.parametrize(
    ("command", "hint"), [("run", "same command"), ("fit", "last.ckpt"), ("import", "Interrupted.\n")]
)
@pytest.mark.parametrize("as_exit", [False, True], ids=["plain", "as Lightning's exit"])
def test_ctrl_c_says_how_to_go_on(command, hint, as_exit, monkeypatch, capsys):
    def interrupted(command, args):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            if as_exit:
                sys.exit(1)
            raise

    monkeypatch.setattr(merc.cli, "_dispatch", interrupted)
    assert main([command]) == 130
    assert hint in capsys.readouterr().err


def test_other_exits_keep_their_status(monkeypatch):
    monkeypatch.setattr(merc.cli, "_dispatch", lambda command, args: sys.exit(2))
    with pytest.raises(SystemExit) as end:
        main(["fit"])
    assert end.value.code == 2


def test_what_the_user_can_mend_is_one_line(capsys):
    assert main(["fit", "--config", "nowhere.yaml"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("merc fit: No config 'nowhere.yaml'") and error.count("\n") == 1


def test_an_unknown_command_shows_the_known_ones(capsys):
    assert main(["fti"]) == 2
    assert "no command 'fti'" in capsys.readouterr().err


def test_short_names_become_files():
    assert "systems/teacher.yaml" in shipped_configs()
    long, equals = expand_configs(["--config", "systems/teacher.yaml"]), expand_configs(["-c=systems/teacher.yaml"])
    assert long[1] == equals[0].removeprefix("-c=") and long[1].endswith("merc/configs/systems/teacher.yaml")
