"""The page of `merc app`: what it runs, what it shows, and what it refuses."""

import asyncio
import errno
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import zipfile
from functools import partial
from pathlib import Path

import pytest

import merc.annotation
import merc.app.runs
import merc.models
from merc.app import AppError, AppSettings, Run, Runs, as_bytes
from merc.app.runs import FORMATS, _plain_name
from merc.app.server import MODELS
from merc.cli import main
from support.app_server import served

gradio = pytest.importorskip("gradio", reason="gradio is not installed: pip install 'merc[app]'")
import gradio_client  # noqa: E402 - of gradio
import httpx  # noqa: E402 - of gradio
import uvicorn  # noqa: E402 - of gradio

WEB = httpx.Client(timeout=60, headers={"Connection": "close"})  # one for all, as each would read all certificates
CSV = "line,start,end,speaker,text,emotion,probability\n1,0.5,1.25,Ann,<b>Hi.</b>,joy,0.8312\n2,2,3,,,,\n"
# In place of `merc annotate`, which needs many seconds: the same steps and files.
PRETENDED = f"""
import pathlib, time
print("step 1 of 2: faces", flush=True)
print("Predicting 1/1", flush=True)
while pathlib.Path("hang").exists(): time.sleep(0.05)
print("film of talk.mp4", flush=True)
out = pathlib.Path("results")
(out / "stages").mkdir(parents=True)
(out / "annotation.csv").write_text({CSV!r})
(out / "annotation.html").write_text("<p>page</p>")
(out / "annotated.mp4").write_bytes(b"0123456789")
(out / ".hidden").write_text("")
"""


@pytest.fixture
def pretended(monkeypatch):
    """Runs take no time: see PRETENDED."""
    monkeypatch.setattr(Run, "command", [sys.executable, "-c", PRETENDED])


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "work", {name: name for name in MODELS})


def put_upload(runs, name, content=b"x"):
    """Puts a file where gradio puts uploads."""
    path = runs.uploads / os.urandom(8).hex() / name
    path.parent.mkdir()
    path.write_bytes(content)
    return str(path)


@pytest.fixture
def upload(runs):
    """The same for the runs of the test."""
    return partial(put_upload, runs)


async def watched(run, slots=None):
    """The names of the steps after each look."""
    return [[step.name for step in steps] async for steps in run.watch(slots or asyncio.Semaphore(1))]


# Runs.


def test_what_is_repeated_here_is_that_of_merc():
    assert {*FORMATS, "json"} == set(merc.annotation.FORMATS)
    assert set(MODELS) == {"default", *merc.models.shipped_models()}


def test_a_run_has_a_folder_of_its_own_and_tells_its_steps(runs, upload, pretended):
    run = runs.new("visitor", upload("My Talk.MP4"), upload("a.srt"), "default")
    assert (run.recording, run.transcript) == ("My Talk.mp4", "a.srt")
    told = asyncio.run(watched(run))
    assert told[-1] == ["loading the model", "step 1 of 2: faces", "film of talk.mp4"]
    assert all(step.ended is not None for step in run.steps)
    assert [path.name for path in run.files()] == ["annotation.html", "annotated.mp4", "annotation.csv"]
    with zipfile.ZipFile(asyncio.run(runs.find(run.token, "My Talk.zip"))) as archive:
        names = [f"My Talk/{name}" for name in ("annotation.html", "annotated.mp4", "annotation.csv")]
        assert archive.namelist() == names and archive.read(names[2]) == CSV.encode()


def test_the_command_is_that_of_merc_annotate_with_relative_paths(runs, upload):
    command = runs.new("visitor", upload("-talk.mp4"), upload("--out.srt"), "text-meld").command
    asked = "annotate ./-talk.mp4 --model text-meld --transcript ./--out.srt --out results"
    assert command[1:4] == ["-P", "-m", "merc"] and " ".join(command[4:]).startswith(asked)
    assert "--transcript" not in runs.new("visitor", upload("talk.wav"), None, "default").command


@pytest.mark.parametrize(
    "name", ["../../x.mp4", "a/b.mp4", "a\nb.mp4", "a;b$(c)'\"<i>.mp4", ".mp4", "...mp4", "x" * 300 + ".mp4"]
)
def test_names_of_uploads_become_plain(name):
    assert re.fullmatch(r"[\w -][\w. -]{0,80}\.mp4", _plain_name(name, "recording")) or name in (".mp4", "...mp4")
    assert "/" not in _plain_name(name, "recording") and len(_plain_name(name, "recording")) < 100


def test_what_cannot_be_annotated_is_refused_with_what_is_expected(runs, upload, tmp_path):
    film = upload("talk.mp4")
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (runs.uploads / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    for given, message in (
        ((None, None, "default"), "There is no recording yet: drop a film"),
        ((upload("talk.exe"), None, "default"), r"talk.exe is no recording by its name: expected .* \.mp4 "),
        ((upload("list.csv"), None, "default"), "list.csv is no recording"),  # could name any file
        ((film, upload("talk.mp3"), "default"), r"talk.mp3 is no transcript by its name: expected .* \.srt "),
        ((film, None, "/etc"), "no model '/etc' here: expected one of default, text-meld"),
        ((str(tmp_path / "secret.mp4"), None, "default"), "secret.mp4 is no upload"),
        ((f"{runs.uploads}/../../secret.mp4", None, "default"), "secret.mp4 is no upload"),
        ((f"{runs.uploads}/link.mp4", None, "default"), "link.mp4 is no upload"),
        (("a\0.mp4", None, "default"), "is no upload"),
    ):
        with pytest.raises(AppError, match=message):
            runs.new("visitor", *given)
    assert not runs.by_token and list(runs.folder.iterdir()) == [runs.uploads]


@pytest.mark.slow
def test_a_bad_file_gets_the_message_of_merc(runs, upload):
    run = runs.new("visitor", upload("talk.mp4", b"no film"), None, "default")
    with pytest.raises(AppError, match=r"^talk\.mp4 is not a media file, .*Play it to check it") as raised:
        asyncio.run(watched(run))
    assert "Traceback" not in str(raised.value) and str(runs.folder) not in str(raised.value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit('noise\\nmerc annotate: No lines.\\nDo this.')", r"^No lines\.\nDo this\.$"),
        ("1 / 0", "ended with status 1 .ZeroDivisionError: division by zero.*errors.log"),
        ("import os; os._exit(9)", "ended with status 9 .nothing was said"),
    ],
)
def test_a_failure_tells_the_cause(runs, upload, monkeypatch, code, message):
    monkeypatch.setattr(Run, "command", [sys.executable, "-c", code])
    with pytest.raises(AppError, match=message):
        asyncio.run(watched(runs.new("visitor", upload("talk.mp4"), None, "default")))


@pytest.mark.parametrize("name", ["told.txt", "errors.txt", "results.txt"])
def test_a_transcript_of_any_name_is_left_as_it_is(runs, upload, pretended, name):
    run = runs.new("visitor", upload("talk.mp4"), upload(name, b"Ann: Hello."), "default")
    asyncio.run(watched(run))
    assert (run.folder / run.transcript).read_bytes() == b"Ann: Hello."


def hanging(runs, upload, visitor):
    run = runs.new(visitor, upload("talk.mp4"), None, "default")
    (run.folder / "hang").touch()
    return run


def test_a_run_can_be_stopped_and_another_of_the_same_visitor_stops_it(runs, upload, pretended):
    async def check():
        for stop in (lambda: runs.stop("a"), lambda: runs.new("a", upload("talk.mp4"), None, "default")):
            run = hanging(runs, upload, "a")
            async for steps in run.watch(runs.slots):
                assert not run.stopped or run._process.poll() is None or len(steps)
                if steps[-1].name == "step 1 of 2: faces":
                    stop()
            assert run.stopped and run._process.returncode == -signal.SIGTERM and not run.files()

    asyncio.run(check())


def test_a_run_waits_for_others_and_can_be_stopped_meanwhile(runs, upload, pretended):
    async def check():
        first, second, third = (hanging(runs, upload, name) for name in "abc")
        (second.folder / "hang").unlink()
        tasks = [asyncio.create_task(watched(run, runs.slots)) for run in (first, second, third)]
        while len(first.steps) < 2:
            await asyncio.sleep(0.05)
        assert [step.name for step in second.steps] == ["waiting for other recordings"] and second._process is None
        runs.stop("c")
        await tasks[2]
        assert third._process is None and second._process is None
        (first.folder / "hang").unlink()
        assert [(await task)[-1][-1] for task in tasks[:2]] == ["film of talk.mp4"] * 2

    asyncio.run(check())


def test_a_run_that_nobody_watches_any_more_ends(runs, upload, pretended):
    async def check():
        run = hanging(runs, upload, "a")
        watching = run.watch(runs.slots)
        async for steps in watching:
            if len(steps) == 2:
                break
        await watching.aclose()
        assert run._process.returncode == -signal.SIGTERM

    asyncio.run(check())


@pytest.mark.parametrize("keep", [False, True])
def test_at_the_end_uploads_go_and_results_stay_only_if_asked_for(runs, upload, pretended, keep):
    run = runs.new("a", upload("talk.mp4"), None, "default")
    asyncio.run(watched(run))
    runs.close(keep=keep)
    assert not runs.uploads.exists() and (run.results / "annotation.csv").exists() == keep == runs.folder.exists()


def test_what_is_in_the_folder_already_is_neither_deleted_nor_an_upload(tmp_path):
    film = tmp_path / "uploads" / "mine.mp4"
    film.parent.mkdir()
    film.write_bytes(b"x")
    one, other = (Runs(tmp_path, {"default": "default"}) for _ in range(2))
    assert not one.is_upload(str(film))
    one.close(keep=True)
    assert film.exists() and other.uploads.exists()


# The server.


def said(address, path, **more):
    # As it is: httpx would take ../ out.
    return WEB.get(httpx.URL(address).copy_with(raw_path=path.encode()), **more)


def test_no_file_is_served_but_the_results_of_a_run(runs, upload, pretended):
    film = upload("talk.mp4")
    mine, other = (runs.new(name, film, None, "default") for name in "ab")
    for run in (mine, other):
        asyncio.run(watched(run))
    with served(runs, AppSettings()) as address:
        start = f"/results/{mine.token}"
        shown = said(address, f"{start}/annotated.mp4", headers={"Range": "bytes=2-4"})
        assert (shown.status_code, shown.content) == (206, b"234")  # so that a player can seek
        kept = said(address, f"{start}/annotation.csv")
        assert kept.text == CSV and kept.headers["content-disposition"].startswith("attachment")
        page = said(address, f"{start}/annotation.html")
        assert page.headers["content-security-policy"] == "sandbox allow-scripts"
        assert said(address, f"{start}/talk.zip").content.startswith(b"PK")
        up = "../" * 20
        paths = ["/etc/passwd", film, f"{runs.uploads}/../../x", str(mine.folder / "talk.mp4"), f"{up}etc/passwd"]
        paths += [
            str(other.results / "annotation.csv"),
            str(Path(merc.__file__).parent / "shipped/text-meld/config.json"),
        ]
        routes = ["/gradio_api/file=", "/gradio_api/file/", "/file=", "/gradio_api/proxy=", "/static/", "/assets/"]
        refused = [route + path for route in routes for path in [*paths, "http://127.0.0.1:9/x"]]
        refused += [
            f"{start}/{name}" for name in ("errors.log", "..", "../talk.mp4", "..%2Ftalk.mp4", "%2Fetc%2Fpasswd")
        ]
        refused += [f"{start}/stages", f"{start}/.hidden", f"{start}/", "/results/", "/results/x/annotation.csv"]
        refused += [f"/results/{other.token[:-1]}/annotation.csv", "/monitoring", "/docs", "/gradio_api/openapi.json"]
        for path in refused:
            answer = said(address, path)
            assert answer.status_code in (403, 404, 405), (path, answer.status_code)
            assert "root:" not in answer.text and CSV not in answer.text


def test_a_request_cannot_name_a_file_that_is_no_upload(runs, tmp_path):
    secret = runs.folder / "secret.mp4"
    secret.write_bytes(b"secret")
    with served(runs, AppSettings()) as address:
        join = f"{address}/gradio_api/queue/join"
        asked = {"fn_index": 2, "session_hash": "abc", "trigger_id": 1, "event_data": None}
        others = ["http://127.0.0.1:9/x.mp4", f"{runs.uploads}/../secret.mp4", 3, None, "a\0b", "x" * 5000]
        for path in ["/etc/passwd", str(secret), *others]:
            file = {"path": path, "meta": {"_type": "gradio.FileData"}}
            for data in ([file, None, "default"], [None, None, file], [{"a": [file]}, None, "default"]):
                answer = WEB.post(join, json={**asked, "data": data})
                assert (answer.status_code, answer.text) == (403, "A request may name uploaded files only."), path
        assert WEB.post(join, content="[" * 50000).status_code == 400
        assert WEB.post(join, content=b" " * 70000).status_code == 413
        assert WEB.post(f"{address}/gradio_api/run/annotate", json={**asked, "data": [file]}).status_code == 404
    assert list(tmp_path.rglob("*.mp4")) == []  # nothing was copied, and the folder is gone


def test_uploads_are_limited_and_stay_in_their_folder(runs):
    with served(runs, AppSettings(max_size="100KB")) as address:
        to = f"{address}/gradio_api/upload"
        [path] = WEB.post(to, files={"files": ("../../../x.mp4", b"y" * 100_000)}).json()
        assert runs.is_upload(path) and Path(path).name == "x.mp4"
        over = WEB.post(to, files={"files": ("x.mp4", b"y" * 100_001)})
        assert over.status_code == 413
        far = WEB.post(to, files={"files": ("x.mp4", b"y" * 300_000)})
        assert (far.status_code, far.text) == (413, "The file is too large: expected at most 100KB.")
        parts = {"Content-Type": "multipart/form-data; boundary=x"}
        assert WEB.post(to, content=iter([b"--x"]), headers=parts).status_code == 411
        assert sum(file.stat().st_size for file in runs.uploads.rglob("*") if file.is_file()) == 100_000


def test_the_file_with_all_results_needs_room_too(tmp_path):
    runs = Runs(tmp_path / "work", {"default": "default"}, max_total=1000)
    run = runs.new("visitor", put_upload(runs, "talk.mp4", b"x" * 100), None, "default")
    run.results.mkdir()
    (run.results / "annotated.mp4").write_bytes(b"y" * 500)
    with pytest.raises(OSError, match="together are too large") as raised:
        asyncio.run(runs.find(run.token, "talk.zip"))
    assert raised.value.errno == errno.ENOSPC and not run.zip_file.exists()
    runs.max_total = 2000
    assert asyncio.run(runs.find(run.token, "talk.zip")) == run.zip_file
    runs.max_total = 1000
    assert asyncio.run(runs.find(run.token, "talk.zip")) == run.zip_file  # it is there


def granted(runs, *sizes):
    """Whether there is room for uploads that are all under way at the same time."""

    async def one(size, begun):
        async with runs.room(size) as given:
            await begun.wait()
            return given

    async def all_of_them():
        begun = asyncio.Barrier(len(sizes))
        return await asyncio.gather(*(one(size, begun) for size in sizes))

    return asyncio.run(all_of_them())


def test_uploads_at_the_same_time_have_a_limit_together(tmp_path):
    runs = Runs(tmp_path / "work", {"default": "default"}, max_total=1000)
    assert sorted(granted(runs, 600, 600, 300)) == [False, True, True]
    assert granted(runs, 1000) == [True]  # the room of those is free again, as they left nothing


def test_an_upload_that_arrives_while_files_are_counted_keeps_its_room(tmp_path, monkeypatch):
    runs = Runs(tmp_path / "work", {"default": "default"}, max_total=1000)
    counted = runs._used

    async def come():
        first = runs.room(600)
        assert await first.__aenter__()
        loop = asyncio.get_running_loop()

        def used():
            found = counted()  # without the file, which then arrives, and whose room is given back
            (runs.uploads / "a").write_bytes(b"x" * 600)
            asyncio.run_coroutine_threadsafe(first.__aexit__(None, None, None), loop).result(5)
            return found

        monkeypatch.setattr(runs, "_used", used)
        async with runs.room(600) as second:
            return second

    assert not asyncio.run(come())


def test_the_server_answers_while_files_are_counted(tmp_path, monkeypatch):
    runs = Runs(tmp_path / "work", {"default": "default"}, max_total=1000)
    counting, seen = threading.Event(), threading.Event()
    monkeypatch.setattr(runs, "_used", lambda: counting.set() or (0 if seen.wait(10) else 10_000))
    with served(runs, AppSettings()) as address:
        to = f"{address}/gradio_api/upload"
        put = threading.Thread(target=lambda: WEB.post(to, files={"files": ("x.mp4", b"y")}))
        put.start()
        assert counting.wait(10) and WEB.get(f"{address}/favicon.ico", timeout=5).status_code < 500
        seen.set()
        put.join(10)
        assert not put.is_alive()


def test_all_visitors_together_have_a_limit(tmp_path):
    runs = Runs(tmp_path / "work", {"default": "default"}, max_total=250_000)
    with served(runs, AppSettings()) as address:
        to = f"{address}/gradio_api/upload"
        [path] = WEB.post(to, files={"files": ("x.mp4", b"y" * 150_000)}).json()
        full = WEB.post(to, files={"files": ("x.mp4", b"z" * 150_000)})
        assert (full.status_code, full.text) == (507, "There is no room left for this file on the server.")
        run = runs.new("visitor", path, None, "default")  # a link to the upload takes no room
        assert granted(runs, 100_000) == [True] and granted(runs, 100_001) == [False]
        (run.folder / "result").write_bytes(b"y" * 100_000)
        with pytest.raises(AppError, match="no room left for results"):
            runs.new("other", path, None, "default")


def test_files_that_go_while_they_are_counted_take_no_room(tmp_path, monkeypatch):
    runs = Runs(tmp_path / "work", {"default": "default"}, max_total=1000)
    (runs.uploads / "gone").symlink_to(tmp_path / "nowhere")
    (runs.uploads / "there").write_bytes(b"x" * 600)
    monkeypatch.setattr(Path, "is_file", lambda path: True)  # it was, when it was asked
    assert granted(runs, 400) == [True] and granted(runs, 401) == [False]


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/srv/secret")


def forbidden(*args, **kwargs):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/srv/secret")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "[Errno 28] No space left on device: '{run}/results/a.csv'",
            "[Errno 28] No space left on device: 'results/a.csv'",
        ),
        ("[Errno 13] Permission denied: '/srv/my data/x y.bin'", "[Errno 13] Permission denied: 'x y.bin'"),
        ("The model {models}/mine/config.yaml is damaged.", "The model config.yaml is damaged."),
        (
            "No /srv/a/b.mp4, see https://github.com/a/b: 1/2 and 3 / 4.",
            "No b.mp4, see https://github.com/a/b: 1/2 and 3 / 4.",
        ),
        (f"{sys.prefix}/lib/x.py:3: expected a/b.", "x.py:3: expected a/b."),
        (f"{tempfile.gettempdir()}/abc: full", "abc: full"),
    ],
)
def test_a_visitor_learns_no_folder_of_the_server(said, told, runs, upload, tmp_path):
    models = tmp_path / "my models"
    run = runs.new("visitor", upload("talk.mp4"), None, "default")
    run.model = str(models / "mine")
    said = said.format(run=run.folder, models=models)
    assert run._problem(f"merc annotate: {said}\n", 1) == told
    crashed = run._problem(f"Traceback\nOSError: {said}\n", 1)
    assert told in crashed and "/srv" not in crashed


def test_a_full_disk_is_told_and_the_page_can_be_used_again(runs, pretended, tmp_path, monkeypatch):
    (tmp_path / "talk.mp4").write_bytes(b"x")
    with served(runs, AppSettings()) as address:
        visitor = gradio_client.Client(address, verbose=False, analytics_enabled=False)
        film = gradio_client.handle_file(tmp_path / "talk.mp4")
        with monkeypatch.context() as patch:
            patch.setattr(merc.app.runs, "_copy", full_disk)
            told = visitor.predict(film, None, "default", api_name="/annotate")
        assert "The server cannot keep the results: No space left on device." in str(told)
        assert "secret" not in str(told)
        run = runs.new("visitor", _uploaded(runs), None, "default")
        asyncio.run(watched(run))
        monkeypatch.setattr(merc.app.runs, "write_aside", full_disk)
        assert WEB.get(f"{address}/results/{run.token}/{run.zip_name}").status_code == 507
        monkeypatch.setattr(merc.app.runs, "write_aside", forbidden)
        broken = WEB.get(f"{address}/results/{run.token}/{run.zip_name}")
        assert (broken.status_code, "room" in broken.text, "secret" in broken.text) == (500, False, False)


def _uploaded(runs):
    return next(str(path) for path in runs.uploads.rglob("*.mp4"))


def test_the_page_asks_no_other_server_and_answers_to_no_other_name(runs):
    with served(runs, AppSettings()) as address:
        page = WEB.get(address)
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=.?https?://(?!127)[^>]*>", page.text)
        assert not re.findall(r"@import|url\(.?http", WEB.get(f"{address}/theme.css").text)
        assert WEB.get(address, headers={"Host": "evil.example"}).status_code == 400


def test_a_visitor_uploads_runs_and_downloads(runs, pretended, tmp_path, monkeypatch):
    connect, asked = socket.socket.connect, []
    monkeypatch.setattr(socket.socket, "connect", lambda own, to: (asked.append(to), connect(own, to))[1])
    (tmp_path / "talk.mp4").write_bytes(b"x")
    with served(runs, AppSettings()) as address:
        visitors = [gradio_client.Client(address, verbose=False, analytics_enabled=False) for _ in range(2)]
        film = gradio_client.handle_file(tmp_path / "talk.mp4")
        pages = [visitor.submit(film, None, "default", api_name="/annotate") for visitor in visitors]
        last = [page.result(timeout=60) for page in pages]
        shown = ["".join(part for part in values if isinstance(part, str)) for values in last]
        tokens = [re.search(r"src='results/([\w-]+)/annotation.html'", text)[1] for text in shown]
        assert tokens[0] != tokens[1] and set(tokens) == set(runs.by_token)
        assert tokens[1] not in str(pages[0].outputs())
        assert "step 1 of 2: faces" in shown[0] and "<summary role='status'>Done (" in shown[0]
        links = re.findall(r"href='(results/[^']+)'", shown[0])
        names = ["talk.zip", "annotation.html", "annotated.mp4", "annotation.csv"]
        assert [Path(link).name for link in links] == names
        assert all(WEB.get(f"{address}/{link}").status_code == 200 for link in links)
        [table] = [part for part in last[0] if isinstance(part, dict) and "data" in part]
        assert table["data"][0] == ["0.50", "1.25", "Ann", "joy", "0.83", "<b>Hi.</b>"]
        wrong = visitors[0].predict(None, None, "default", api_name="/annotate")
        assert "There is no recording yet" in str(wrong)
    assert {to[0] for to in asked if isinstance(to, tuple)} <= {"127.0.0.1"}


# The command.


def test_sizes():
    assert [as_bytes(size) for size in ("2GB", "1.5 mb", "10", "3kb")] == [2 * 10**9, 1_500_000, 10, 3000]
    for wrong in ("", "GB", "-1GB", "0", "2PB", "2 G B"):
        with pytest.raises(AppError, match="is no size: expected such as"):
            as_bytes(wrong)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "nowhere"], "There is no model nowhere: expected default, text-meld, a folder of"),
        (["--max_size", "much"], "'much' is no size"),
        (["--max_total", "much"], "'much' is no size"),
        (["--jobs", "0"], "jobs is 0: expected 1 or more"),
        (["--port", "65536"], "port is 65536: expected 0 to 65535"),
        (["--port", "-1"], "port is -1: expected 0 to 65535"),
    ],
)
def test_the_command_refuses_what_cannot_be_meant(args, message, capsys):
    assert main(["app", *args]) == 1
    assert message in capsys.readouterr().err


def test_a_port_in_use_and_missing_gradio_are_told(capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["app", "--port", str(port)]) == 1
        assert f"Nobody can listen at 127.0.0.1, port {port}" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app"]) == 1
    assert capsys.readouterr().err == "merc app: The page needs gradio: pip install 'merc[app]'.\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_host_that_lets_others_in_gets_a_warning(host, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: None)
    assert main(["app", "--host", host, "--port", "0", "--work", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"http://{host}:") and f"keeps the results in {tmp_path}" in told
    assert (f"Warning: {host} lets other machines in" in told) == (host == "0.0.0.0")


def test_the_command_serves_and_deletes_all_at_the_end(tmp_path):
    command = [sys.executable, "-m", "merc", "app", "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)}, **pipes) as process:
        try:
            address = process.stdout.readline().strip()
            assert '"title":"merc"' in WEB.get(address, timeout=60).text
            assert list(tmp_path.glob("merc-app-*/uploads-*"))
            with WEB.stream("GET", f"{address}/gradio_api/heartbeat/abc", timeout=60):  # a page that is open
                process.send_signal(signal.SIGINT)
                rest = process.communicate(timeout=60)[0]
        finally:
            process.kill()
    assert "Traceback" not in rest and "ERROR" not in rest and not list(tmp_path.iterdir())
