"""Reading pipelines: options stay what they are."""

from merc.pipeline.plan import plan
from merc.pipeline.read import read_pipeline


def test_an_option_that_names_a_class_is_a_plain_value_of_the_stage(tmp_path):
    scorer = {"class_path": "merc.speaker.SyncScorer", "init_args": {"window": None}}
    file = tmp_path / "pipeline.yaml"
    file.write_text(
        "stages:\n"
        "  - name: lips\n"
        "    command: fit\n"
        "    config: systems/lipsync.yaml\n"
        "    options: {model.scorer: {class_path: merc.speaker.SyncScorer, init_args: {window: null}}}\n"
    )
    [stage] = read_pipeline(file).stages
    assert stage.options == {"model.scorer": scorer}
    [run] = plan(read_pipeline(file), tmp_path / "out", {}, [0])  # its fingerprint is over plain values
    assert run.stage.options == stage.options
