"""Evaluation through the real commands: against nnU-Net's own predictions, and what leaves a site meanwhile."""

import csv
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
from flwr.proto.transport_pb2 import ClientMessage

from fednnunet.evaluation.metrics import score_case
from fednnunet.events.event_files import EventReader
from fednnunet.events.events import SitesEvaluated
from fednnunet.labels import Labels
from fednnunet.protocol.messages import EvaluationReport
from fednnunet.report.evaluation_tables import Evaluation
from fednnunet.transport.address import find_free_port
from tests.system.conftest import SITES
from tests.system.overlap import dice
from tests.system.wire import RecordingProxy, grpc_messages, split_frames
from tests.system.workspace import Workspace, finish

pytestmark = pytest.mark.system

TRAINER = ("-tr", "RepeatableTrainer")
QUICK = ("-device", "cpu", "--disable_tta", *TRAINER)
LABELS = {"organ": 1, "lesion": 2}


@pytest.fixture(scope="module")
def trained(federation: Workspace) -> Workspace:
    """The shared federation with a model that has hardly learnt anything, in results of its own."""
    workspace = Workspace(federation.folder, "results of evaluation")
    schedule = ("--rounds", 1, "--iterations_per_epoch", 1, "--val_iterations_per_epoch", 1)
    workspace.succeed("run", "train", "901 902 903", "2d", 0, "-device", "cpu", *TRAINER, *schedule)
    return workspace


def _model(workspace: Workspace, site: str) -> Path:
    return workspace.model_folder(site, trainer="RepeatableTrainer")


def _cases(folder: Path) -> list[dict[str, str]]:
    with (folder / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_site_tells_the_means_of_what_nnunets_own_predictions_come_to(trained: Workspace, tmp_path: Path) -> None:
    output = trained.succeed(
        "run", "evaluate", "901 902 903", "2d", 0, *QUICK, "--min_cases", 1, "--nsd_tolerance", 2,
        "-o", tmp_path / "out", "--run_dir", tmp_path / "run", "--log_dir", tmp_path / "logs",
    )  # fmt: skip
    result = Evaluation.from_json((tmp_path / "run" / "evaluation_0.json").read_text())
    images, stock = tmp_path / "all images", tmp_path / "nnU-Net's"
    images.mkdir()
    for site in SITES:
        for image in (trained.raw / site / "imagesTs").iterdir():
            (images / image.name).symlink_to(image)
    # all sites have one model
    trained.nnunet("nnUNetv2_predict", "-i", images, "-o", stock, "-d", SITES[2], "-c", "2d", "-f", 0, "-device", "cpu",
                   "--disable_tta", *TRAINER, "-npp", 1, "-nps", 1)  # fmt: skip
    foreground = 0
    for site in SITES:
        ours, raw = tmp_path / "out" / site, trained.raw / site
        rows = _cases(ours)
        assert {row["case"] for row in rows} == {path.name.split(".")[0] for path in (raw / "labelsTs").iterdir()}
        for row in rows:
            name = f"{row['case']}.nii.gz"
            assert (ours / name).read_bytes() == (stock / name).read_bytes()
            expected = dice(raw / "labelsTs" / name, stock / name, LABELS[row["label"]])
            assert float(row["dice"]) == pytest.approx(expected)
            foreground += float(row["hd95"]) > 0
        for label in LABELS:
            for metric in ("dice", "hd95", "assd", "nsd"):
                values = [float(row[metric]) for row in rows if row["label"] == label]
                summary = getattr(result.sites[site].labels[label], metric)
                assert (summary.mean, summary.cases) == (pytest.approx(statistics.fmean(values)), len(values))
        assert site in output.split("Test cases, fold 0")[1]
    assert foreground, "a model that finds nothing would show nothing"
    assert result.all_sites.overall.dice.cases == 3
    assert (tmp_path / "run" / "evaluation_0.csv").read_text().count("\n") == 1 + 4 * 3 * 4
    assert "NSD at 2 mm" in (tmp_path / "run" / "evaluation_0.md").read_text()
    (event,) = [
        event
        for event in EventReader(tmp_path / "logs" / "events.jsonl").new_events()
        if isinstance(event, SitesEvaluated)
    ]
    assert event.sites == result.sites


def test_a_site_that_was_not_in_the_federation_evaluates_its_model_and_tells_nothing_of_few_cases(
    trained: Workspace, tmp_path: Path
) -> None:
    """Its labels say that voxels are ten times as large as its images say, which nnU-Net does not believe."""
    external = Workspace(tmp_path)
    external.raw.mkdir()
    shutil.copytree(trained.raw / SITES[1], external.raw / "Dataset904_External")
    spacings = {}
    for path in (external.raw / "Dataset904_External" / "labelsTs").iterdir():
        label = sitk.ReadImage(str(path))
        spacings[path.name.split(".")[0]] = label.GetSpacing()
        label.SetSpacing([10 * size for size in label.GetSpacing()])
        sitk.WriteImage(label, str(path))
    model = shutil.copytree(_model(trained, SITES[0]), tmp_path / _model(trained, SITES[0]).name)
    output = external.succeed("run", "evaluate", "904", "2d", 0, "-m", model, "-device", "cpu", "--run_dir", "run")
    assert "fewer than --min_cases 5" in output
    folder = model / "evaluation_0" / "Dataset904_External"
    assert [row["label"] for row in _cases(folder)] == list(LABELS)
    assert f"labels of {len(spacings)} of {len(spacings)} test cases have another voxel size" in output
    for row in _cases(folder):
        truth, predicted = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(where / f"{row['case']}.nii.gz")))
            for where in (external.raw / "Dataset904_External" / "labelsTs", folder)
        )
        scores = score_case(truth, predicted, Labels({"background": 0, **LABELS}), spacings[row["case"]][::-1])
        assert float(row["hd95"]) == scores[row["label"]].hd95
    assert not _numbers(json.loads((tmp_path / "run" / "evaluation_0.json").read_text())["sites"])
    status, output = external.call("client", "evaluate", "904", "2d", 0, "-device", "cpu", *TRAINER)
    assert status == 1
    assert "or give the folder TRAINER__PLANS__CONFIGURATION of a trained model with -m" in output


def _numbers(content: Any) -> list[float]:
    if isinstance(content, dict):
        return [number for value in content.values() for number in _numbers(value)]
    return [] if content is None else [content]


def test_nothing_of_a_single_case_leaves_and_sites_without_labels_or_consent_are_named(
    trained: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "no labels").mkdir()
    (tmp_path / "policy.toml").write_text("[metrics]\nmin_cases = 9\n")
    port = find_free_port("127.0.0.1")
    with RecordingProxy(port) as proxy:
        server = trained.start("server", "evaluate", "--num_clients", 3, "--port", port, "--run_dir", tmp_path / "run")
        assert server.stdout is not None
        assert "Waiting" in server.stdout.readline()
        flags: dict[str, tuple[object, ...]] = {  # the training cases, of which there are 12, 8 and 5
            SITES[0]: ("--port", proxy.port, "-l", trained.raw / SITES[0] / "labelsTr"),
            SITES[1]: ("--port", port, "-l", trained.raw / SITES[1] / "labelsTr", "--policy", tmp_path / "policy.toml"),
            SITES[2]: ("--port", port, "-l", tmp_path / "no labels"),
        }
        nodes = {
            site: trained.start(
                "client", "evaluate", site, "2d", 0, *QUICK, "-o", tmp_path, *words,
                "-i", trained.raw / site / "imagesTr",
            )
            for site, words in flags.items()
        }  # fmt: skip
        ended = {site: finish(process) for site, process in nodes.items()}
        status, output = finish(server)
    assert (status, [status for status, _ in ended.values()]) == (0, [0, 0, 0]), [output, ended]
    assert "has no test cases with labels: it takes no part" in ended[SITES[2]][1]
    for site, why in (
        (SITES[1], "the site's policy does not allow this message (rule metrics.min_cases)"),
        (SITES[2], "it has no test cases with labels"),
    ):
        assert f"not evaluated at site {site}: {why}" in output
    result = Evaluation.from_json((tmp_path / "run" / "evaluation_0.json").read_text())
    assert (list(result.sites), sorted(result.left_out)) == ([SITES[0]], list(SITES[1:]))
    assert result.sites[SITES[0]].overall.dice.cases == 12

    sent = b"".join(split_frames(bytes(part))[0] for part in proxy.sent)
    answers = [ClientMessage.FromString(message) for message in grpc_messages(sent)]
    bodies = [answer.get_properties_res.properties["body"].string for answer in answers]
    (report,) = [body for body in bodies if '"overall"' in body]
    assert EvaluationReport.from_json(report) == result.sites[SITES[0]]
    rows = _cases(tmp_path / SITES[0])
    assert len(rows) == 24
    log = (tmp_path / SITES[0] / "fednnunet_audit.jsonl").read_bytes()
    for row in rows:
        for text in (sent, log):
            assert row["case"].encode() not in text
        # a number of one case would be there with all of its digits
        told = {repr(number) for number in _numbers(json.loads(report))}
        assert not {value for name, value in row.items() if name in ("hd95", "assd") and value} & told
