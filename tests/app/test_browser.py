"""The page of `merc app` in a real browser: upload, run, play, download."""

import json
import re
import shutil
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest

from merc.app import AppSettings, Runs
from support.app_server import served

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'merc[app]'")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install 'merc[dev]'")

FILM = Path(__file__).resolve().parents[3] / "shared" / "data" / "clips" / "talk_3.mp4"
CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
PATIENCE = 300

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="there is no Chromium with its chromedriver here"),
    pytest.mark.skipif(not FILM.is_file(), reason="../shared/data/clips is not here"),
]


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for name in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "disable-background-networking"):
        options.add_argument(f"--{name}")
    options.add_argument("--window-size=1280,1000")
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def once(find):
    """What ``find`` finds, as soon as it finds something."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := find():
            return found
        time.sleep(0.2)
    raise AssertionError("It has not come.")


def played(browser):
    """Whether the film in the frame has sound and frames, and goes on."""
    video = browser.find_element("css selector", "video")
    count = "return [arguments[0].currentTime, arguments[0].webkitAudioDecodedByteCount, arguments[0].videoWidth]"
    once(lambda: browser.execute_script("return arguments[0].readyState", video) >= 2)
    browser.find_element("id", "play-line").click()
    return once(lambda: all(value > 0 for value in browser.execute_script(count, video)))


def test_upload_run_play_download(browser, tmp_path):
    (tmp_path / "talk.mp4").symlink_to(FILM)
    wrong = tmp_path / "talk.exe"
    wrong.write_bytes(b"x")
    runs = Runs(tmp_path / "work", {"default": "default"})
    with served(runs, AppSettings()) as address:
        browser.get(address)
        recording, _ = once(lambda: browser.find_elements("css selector", "input[type=file]"))
        recording.send_keys(str(wrong))
        problem = once(lambda: browser.find_elements("class name", "merc-problem"))[0].text
        assert problem.startswith("talk.exe is no recording by its name: expected")
        browser.get(address)
        recording, _ = once(lambda: browser.find_elements("css selector", "input[type=file]"))
        recording.send_keys(str(tmp_path / "talk.mp4"))
        once(lambda: "MB" in browser.page_source or "KB" in browser.page_source)
        next(b for b in browser.find_elements("tag name", "button") if b.text == "Annotate").click()
        once(lambda: "step 1 of 3: faces" in browser.page_source)
        once(lambda: browser.find_elements("css selector", "summary[role=status]"))
        steps = [li.get_attribute("textContent") for li in browser.find_elements("css selector", ".merc-steps li")]
        expected = ["loading", "transcript of", "step 1 of 3", "step 2 of 3", "step 3 of 3", "people", "film", "page"]
        assert all(name in step for name, step in zip(expected, steps, strict=True)), steps
        once(lambda: "person 1" in browser.find_element("tag name", "body").text)  # in the table

        # The film inside the page, and then one beside it, as large films are.
        browser.switch_to.frame(browser.find_element("tag name", "iframe"))
        assert played(browser)
        [run] = runs.by_token.values()
        page = (run.results / "annotation.html").read_text("utf-8")
        page = re.sub(r'(id="film">)[^<]+', r"\1", page).replace('"source":""', '"source":"./annotated.mp4"')
        (run.results / "annotation.html").write_text(page, "utf-8")
        browser.switch_to.default_content()
        browser.execute_script("const f = document.querySelector('iframe'); f.src = f.src + '?'")
        time.sleep(2)
        browser.switch_to.frame(browser.find_element("tag name", "iframe"))
        assert played(browser)
        browser.switch_to.default_content()

        links = browser.find_elements("css selector", ".merc-files a")
        names = {link.get_attribute("download") for link in links}
        assert names == {"talk.zip", *(file.name for file in run.files())} and len(names) == 12
        for link in links:
            assert urllib.request.urlopen(link.get_attribute("href")).read(1), link.text
        links[0].click()
        got = once(lambda: list((tmp_path / "downloads").glob("*.zip")))[0]
        assert len(zipfile.ZipFile(got).namelist()) == 11
        events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        assert len(asked) > 10
        assert [url for url in asked if not url.startswith((address, "blob:", "data:"))] == []
