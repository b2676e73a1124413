"""dataset.json files as people have them: read, or refused in one sentence that names file and remedy."""

import json

import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.node.dataset_json import image_reader, read_dataset_json

GOOD = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "a": 1},
    "numTraining": 3,
    "file_ending": ".png",
}
LISTED = {"images": ["imagesTr/A_0000.png"], "label": "labelsTr/A.png"}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"labels": {"0": "background", "1": "a"}}, "nnUNetv2_convert_old_nnUNet_dataset"),
        ({"file_ending": None}, 'has no "file_ending"'),
        ({"file_ending": "png"}, "with its dot"),
        ({"file_ending": ".jpg"}, "which nnU-Net does not read"),
        ({"labels": {"background": 0, "a\nb": 1}}, "not a printable line"),
        ({"channel_names": {"0": "x" * 300}}, "not a printable line"),
        ({"channel_names": ["grey"]}, "name each channel by its number"),
        ({"channel_names": {}}, "name each channel by its number"),
        ({"channel_names": {"0": None}}, "None as name of channel 0"),
        ({"channel_names": {"1": "a", "0": "b"}}, "numbers its channels 1, 0"),
        ({"modality": {"0": "CT"}}, 'remove "modality"'),
        ({"overwrite_image_reader_writer": "SimpleITKI"}, "write SimpleITKIO"),
        ({"overwrite_image_reader_writer": 3}, "3 as"),
        ({"dataset": []}, 'a "dataset" that is not an object'),
        ({"dataset": {"A": {"images": ["x"]}}}, 'no label for the case "A"'),
        ({"dataset": {"A": {"images": [], "label": "x"}}}, 'no images for the case "A"'),
        ({"dataset": {"A": {"images": [1], "label": "x"}}}, 'no images for the case "A"'),
        ({"dataset": {"A": "x"}}, 'no images for the case "A"'),
        ({"dataset": {"../A": LISTED}}, 'calls a case "../A"'),
    ],
)
def test_what_nnunet_cannot_use_is_told_with_file_and_remedy(tmp_path, change, what):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({key: value for key, value in {**GOOD, **change}.items() if value is not None}))
    with pytest.raises(FednnUNetError, match=what) as caught:
        read_dataset_json(path, "put it there")
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), "byte-order mark"),
        (json.dumps(GOOD).encode("utf-16"), "not UTF-8"),
        (
            json.dumps({**GOOD, "labels": {"background": 0, "Tum\u00f6r": 1}}, ensure_ascii=False).encode("latin-1"),
            "UTF-8",
        ),
        (json.dumps(GOOD).encode()[:40], "is not JSON"),
        (b"", "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"[" * 100_000, "nested"),
    ],
)
def test_a_damaged_file_is_told(tmp_path, data, what):
    path = tmp_path / "dataset.json"
    path.write_bytes(data)
    with pytest.raises(FednnUNetError, match=what):
        read_dataset_json(path, "put it there")


def test_numbers_as_text_and_the_old_name_of_channels_are_understood(tmp_path):
    path = tmp_path / "dataset.json"
    old = {key: value for key, value in GOOD.items() if key != "channel_names"}
    path.write_text(json.dumps({**old, "modality": {"0": "CT"}, "labels": {"background": "0", "a": 1.0}}))
    content = read_dataset_json(path, "put it there")
    assert (content.labels.foreground, content.channels, content.reader) == ({"a": 1}, {"0": "CT"}, None)


@pytest.mark.parametrize(
    ("told", "what"), [(4, "numTraining = 4"), ("3", "numTraining = '3'"), (None, "has no numTraining")]
)
def test_the_number_of_cases_is_that_of_the_cases(tmp_path, told, what):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({**GOOD, "numTraining": told}))
    with pytest.raises(FednnUNetError, match=f'{what}: write "numTraining": 3'):
        read_dataset_json(path, "put it there").check_number_of_cases(3)


def test_an_image_that_no_reader_reads_is_told_without_tracebacks(tmp_path, capfd):
    path, image = tmp_path / "dataset.json", tmp_path / "a_0000.nii.gz"
    path.write_text(json.dumps({**GOOD, "file_ending": ".nii.gz"}))
    image.write_bytes(b"")
    with pytest.raises(FednnUNetError, match=r"no reader for .*a_0000\.nii"):
        image_reader(read_dataset_json(path, "put it there"), str(image))
    assert capfd.readouterr() == ("", "")
