import os
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool

import pytest

import merc.cli
from merc.cli import main
from merc.configs.lookup import expand_configs, find_config, shipped_configs


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


def test_a_killed_process_of_several_is_told_in_a_line(monkeypatch, capsys):
    def broken(command, args):
        raise BrokenProcessPool("A process in the process pool was terminated abruptly")

    monkeypatch.setattr(merc.cli, "_dispatch", broken)
    assert main(["run"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("merc run: a process was killed") and "The same command goes on from here." in error


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
    assert "simulated/teacher.yaml" in shipped_configs()
    long, equals = expand_configs(["--config", "simulated/teacher.yaml"]), expand_configs(["-c=simulated/teacher.yaml"])
    assert long[1] == equals[0].removeprefix("-c=") and long[1].endswith("merc/configs/simulated/teacher.yaml")


def command(*words):
    """A command in a process of its own, as a user gives it; it ends with what heavy modules it has imported."""
    code = (
        "import atexit, sys, time\n"
        "heavy = lambda: {'torch', 'lightning', 'torchmetrics', 'transformers', 'numpy'} & {*sys.modules}\n"
        "atexit.register(lambda: print('imported:', *heavy(), time.process_time(), file=sys.stderr))\n"
        "from merc.cli import main\n"
        "sys.exit(main())"
    )
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)


@pytest.mark.parametrize(
    "words",
    [
        "configs",
        "--version",
        *(f"{name} --help" for name in "annotate diarize run ablate compare ensemble export".split()),
    ],
)
def test_what_only_tells_imports_nothing_heavy_and_answers_within_a_second(words):
    done = command(*words.split())
    said, *imported, seconds = done.stderr.split()
    assert (said, imported) == ("imported:", []) and done.stdout
    assert float(seconds) < 1  # of processor time, which other processes on the machine do not change


def test_python_m_merc_is_the_command():
    done = subprocess.run([sys.executable, "-m", "merc", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{merc.__version__}\n"


def test_configs_prints_the_named_one(capsys):
    assert main(["configs", "demo/simulated.yaml"]) == 0
    assert capsys.readouterr().out == find_config("demo/simulated.yaml").read_text()
    assert main(["configs", "demo/simulatd.yaml"]) == 1
    error = capsys.readouterr().err
    assert "No config 'demo/simulatd.yaml'" in error and "Did you mean demo/simulated.yaml" in error


@pytest.mark.parametrize("words", [["configs"], ["--help"], ["configs", "demo/simulated.yaml"]], ids=" ".join)
def test_a_reader_may_stop_reading(words):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run([sys.executable, "-m", "merc", *words], stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")
