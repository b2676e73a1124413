"""Compares plans, and decides which plans may be installed.

nnU-Net takes what stands in plans for names of files and folders (``data_identifier``, whose folder it empties,
``plans_name``, ``previous_stage``, ``next_stage``) and for names of code: it imports and calls ``network_class_name``
with ``arch_kwargs``, imports the arguments that ``_kw_requires_import`` lists (`pydoc.locate`, which goes on from a
module to whatever that module has imported), and calls what it finds under the names of preprocessor, normalization,
resampling, reader and label manager anywhere in its own folders. So plans that come over the network must name nothing
but what planners name: networks and layers by the full name of a class, files without any path.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.plan_costs import network_finding, resampling_finding, threads_finding
from fednnunet.schema import Name, Number, first_problem

_CLASS_OF_NETWORK = re.compile(r"dynamic_network_architectures\.architectures\.[a-z][a-z0-9_]*\.[A-Z][A-Za-z0-9_]*")
_CLASS_OF_LAYER = re.compile(
    r"(torch\.nn|torch\.nn\.modules\.[a-z][a-z0-9_]*|dynamic_network_architectures\.building_blocks\.[a-z][a-z0-9_]*)"
    r"\.[A-Z][A-Za-z0-9]*"
)
_CODE = {
    "preprocessor_name": re.compile(r"[A-Z][A-Za-z0-9_]*Preprocessor"),
    "normalization_schemes": re.compile(r"[A-Z][A-Za-z0-9_]*Normalization"),
    "resampling_fn": re.compile(r"(no_)?resampl[a-z0-9_]+"),
    "image_reader_writer": re.compile(r"[A-Z][A-Za-z0-9]*IO([A-Z][A-Za-z0-9]*)?"),
    "label_manager": re.compile(r"([A-Z][A-Za-z0-9_]*)?LabelManager"),
}
"""How names of code end or begin, so that among all names in the modules that nnU-Net searches none other is found."""

_RESERVED = frozenset({"dataset", "dataset_fingerprint", "splits_final", "federation", "gt_segmentations"})
"""Names of other files and folders in nnU-Net's preprocessed folder of a dataset."""

_SHAPES_DATA = ("transpose_forward", "image_reader_writer", "foreground_intensity_properties_per_channel")
_SHAPES_DATA_OF_ONE = (
    *("preprocessor_name", "spacing", "normalization_schemes", "use_mask_for_norm"),
    *("resampling_fn_data", "resampling_fn_data_kwargs", "resampling_fn_seg", "resampling_fn_seg_kwargs"),
)

_MOST_ITEMS = 100
_MOST_CHANNELS = 1000
_LARGEST_INTEGER = 100_000
_LARGEST_NUMBER = 1e9
_DEEPEST = 6
_REMEDY = "If it is meant to be so, let every site plan for itself with --asym: then nothing comes from outside."


def plans_digest(plans: Mapping[str, Any]) -> str:
    """Return the SHA-256 of nnU-Net plans without the name of the dataset: equal plans, equal digest."""
    content = {key: value for key, value in plans.items() if key != "dataset_name"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def resolved(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration of plans with inherited values, like nnU-Net's ``PlansManager``.

    Raises
    ------
    FednnUNetError
        If there is no such configuration, or it inherits from itself.
    """
    configurations: Mapping[str, Any] = plans["configurations"]
    chain: list[dict[str, Any]] = []
    heirs: list[str] = []
    while name:
        if name not in configurations:
            by = f", from which '{heirs[-1]}' inherits" if heirs else ""
            raise FednnUNetError(
                f"The plans {plans.get('plans_name')} have no configuration '{name}'{by}: "
                f"choose one of {', '.join(sorted(configurations))}."
            )
        if name in heirs:
            raise FednnUNetError(
                f"Configuration '{name}' of the plans {plans.get('plans_name')} inherits from itself: correct "
                "inherits_from."
            )
        heirs.append(name)
        chain.append(configurations[name])
        name = configurations[name].get("inherits_from") or ""
    return {key: value for own in reversed(chain) for key, value in own.items()}


def data_digest(plans: Mapping[str, Any], name: str) -> str:
    """Return the SHA-256 of all in plans on which the preprocessed data of a configuration depend.

    Configurations with one digest have the same preprocessed data (``DefaultPreprocessor``).
    """
    configuration = resolved(plans, name)
    content = [plans.get(key) for key in _SHAPES_DATA] + [configuration.get(key) for key in _SHAPES_DATA_OF_ONE]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def fingerprint_digest(fingerprint: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a fingerprint of nnU-Net."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()


class NotOfAPlannerError(FednnUNetError):
    """Plans, or a fingerprint, that nnU-Net's planners do not make; `finding` gives the reason."""

    def __init__(self, what: str, reason: str) -> None:
        self.finding = f"{what} that nnU-Net's planners do not make: {reason}"
        super().__init__(f"The coordinator sends {self.finding}. It is not installed. {_REMEDY}")


def check_plans(plans: Mapping[str, Any], plans_name: str | None = None, trusted: Collection[str] = ()) -> None:
    """Refuse plans that would make nnU-Net leave its folders, or run other code than that of a planner's choice.

    So are those whose networks no machine could hold.

    Parameters
    ----------
    plans
        The plans, as JSON.
    plans_name
        How this site's own flags call them, if they do.
    trusted
        Names of code that this site's own flags give.

    Raises
    ------
    FednnUNetError
        Names the key.
    """
    _validate(_Plans, plans, "plans", trusted)
    for name in plans["configurations"]:
        configuration, what = resolved(plans, name), f"plans: configurations.{name}"
        _validate(_Configuration, configuration, what, trusted)
        if "architecture" in configuration:
            _validate(_Architecture, configuration["architecture"], f"{what}.architecture", trusted)
        else:
            _validate(_FormerArchitecture, configuration, what, trusted)
        _refuse(what, network_finding(configuration) or threads_finding(configuration))
    if plans_name is not None and plans["plans_name"] != plans_name:
        raise FednnUNetError(
            f"The coordinator's plans are called {plans['plans_name']}, but this site was started with "
            f"-overwrite_plans_name {plans_name}: start the task again, with a coordinator that you trust."
        )


def check_resampling(
    plans: Mapping[str, Any], names: Collection[str], spacings: np.ndarray, shapes: np.ndarray
) -> None:
    """Refuse plans that would make more voxels of a site's cases than a machine could hold.

    Parameters
    ----------
    plans
        Plans that `check_plans` has taken.
    names
        Configurations that will be preprocessed.
    spacings, shapes
        Of the site's cases: shape ``(cases, 3)``, mm and voxels.

    Raises
    ------
    FednnUNetError
        Names the key.
    """
    for name in names:
        finding = resampling_finding(resolved(plans, name), plans["transpose_forward"], spacings, shapes)
        _refuse(f"plans: configurations.{name}", finding)


def check_fingerprint(fingerprint: Mapping[str, Any]) -> None:
    """Refuse a fingerprint that is not one of nnU-Net's.

    Raises
    ------
    FednnUNetError
        Names the key.
    """
    _validate(_Fingerprint, fingerprint, "fingerprint", ())


class _Schema(BaseModel):
    """A model of plans that converts no values."""

    model_config = ConfigDict(strict=True, extra="allow")


def _check_file_name(text: str) -> str:
    if text.casefold() in _RESERVED or text.casefold().startswith("fednnunet") or text.endswith("."):
        raise PydanticCustomError("file", "Input should not be the name of one of nnU-Net's own files, or ours")
    return text


def _check_keyword(text: str) -> str:
    if not text.isascii() or not text.isidentifier() or text.startswith("__"):
        raise PydanticCustomError("keyword", "Input should be the name of an argument")
    return text


def _check_value(value: Any, depth: int = 0) -> Any:
    """Refuse a value that no planner would give to a network or to a function that resamples."""
    match value:
        case bool() | None:
            fits = True
        case int():
            fits = abs(value) <= _LARGEST_INTEGER
        case float():
            fits = abs(value) <= _LARGEST_NUMBER  # NaN is not
        case str():
            fits = len(value) <= _MOST_ITEMS and re.fullmatch(r"[A-Za-z0-9_.:-]*", value) is not None
        case list():
            fits = len(value) <= _MOST_ITEMS and depth < _DEEPEST
        case dict():
            fits = len(value) <= _MOST_ITEMS and depth < _DEEPEST
        case _:
            fits = False
    if not fits:
        raise PydanticCustomError(
            "argument", "Input should be what an argument of a network can be, and not that large"
        )
    if isinstance(value, list):
        for item in value:
            _check_value(item, depth + 1)
    if isinstance(value, dict):
        for key, item in value.items():
            _check_keyword(key)
            _check_value(item, depth + 1)
    return value


def _code(kind: str) -> AfterValidator:
    """Return the validator of names of a kind of code; those that the site's own flags give are as good."""

    def check(text: str, info: ValidationInfo) -> str:
        if not _CODE[kind].fullmatch(text) and text not in (info.context or ()):
            raise PydanticCustomError("code", "Input should be the name of what nnU-Net has for that")
        return text

    return AfterValidator(check)


_FileName = Annotated[Name, AfterValidator(_check_file_name)]
_Identifier = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,119}$")]
_Size = Annotated[int, Field(ge=1, le=_LARGEST_INTEGER)]
_Sizes = Annotated[list[_Size], Field(min_length=1, max_length=_MOST_ITEMS)]
_Lengths = Annotated[list[Annotated[Number, Field(ge=0, le=_LARGEST_NUMBER)]], Field(min_length=2, max_length=3)]
_Spacing = Annotated[list[Annotated[Number, Field(gt=0, le=_LARGEST_NUMBER)]], Field(min_length=2, max_length=3)]
_Arguments = Annotated[dict[str, Any], AfterValidator(_check_value)]
_Resampling = Annotated[str, _code("resampling_fn")]


class _Architecture(_Schema):
    """Arguments of `get_network_from_plans`."""

    network_class_name: str
    arch_kwargs: _Arguments
    imported: list[str] = Field(alias="_kw_requires_import", max_length=_MOST_ITEMS)

    @model_validator(mode="after")
    def _check_code(self) -> Self:
        if not _CLASS_OF_NETWORK.fullmatch(self.network_class_name):
            raise PydanticCustomError("code", "network_class_name should be one of dynamic_network_architectures")
        for name in self.imported:
            value = self.arch_kwargs.get(name, "")
            if value is not None and not (isinstance(value, str) and _CLASS_OF_LAYER.fullmatch(value)):
                raise PydanticCustomError(
                    "code", "_kw_requires_import should list arguments that are classes of torch.nn or of "
                    "dynamic_network_architectures"
                )  # fmt: skip
        stages = self.arch_kwargs.get("n_stages", 1)
        if not isinstance(stages, int) or not 1 <= stages <= _MOST_ITEMS:
            raise PydanticCustomError("stages", "arch_kwargs.n_stages should be a number of stages")
        return self


class _FormerArchitecture(_Schema):
    """Fields of plans before nnU-Net 2.3, instead of an architecture (`ConfigurationManager`)."""

    UNet_class_name: Literal["PlainConvUNet", "ResidualEncoderUNet"]
    UNet_base_num_features: _Size
    unet_max_num_features: _Size
    n_conv_per_stage_encoder: _Sizes
    n_conv_per_stage_decoder: _Sizes
    num_pool_per_axis: Annotated[list[Annotated[int, Field(ge=0, le=_MOST_ITEMS)]], Field(max_length=3)]
    pool_op_kernel_sizes: Annotated[list[_Sizes], Field(max_length=_MOST_ITEMS)]
    conv_kernel_sizes: Annotated[list[_Sizes], Field(max_length=_MOST_ITEMS)]


class _Configuration(_Schema):
    """One configuration with inherited values, without its architecture."""

    data_identifier: _FileName
    preprocessor_name: Annotated[str, _code("preprocessor_name")]
    batch_size: _Size
    patch_size: Annotated[_Sizes, Field(min_length=2, max_length=3)]
    median_image_size_in_voxels: _Lengths | None = None
    spacing: _Spacing
    normalization_schemes: Annotated[
        list[Annotated[str, _code("normalization_schemes")]], Field(max_length=_MOST_CHANNELS)
    ]
    use_mask_for_norm: Annotated[list[bool], Field(max_length=_MOST_CHANNELS)]
    resampling_fn_data: _Resampling
    resampling_fn_data_kwargs: _Arguments
    resampling_fn_seg: _Resampling
    resampling_fn_seg_kwargs: _Arguments
    resampling_fn_probabilities: _Resampling
    resampling_fn_probabilities_kwargs: _Arguments
    batch_dice: bool


class _Stage(_Schema):
    """A configuration's references to others."""

    inherits_from: Name = ""
    previous_stage: Name | None = None
    next_stage: Name | list[Name] | None = None

    @property
    def others(self) -> list[str]:
        following = self.next_stage if isinstance(self.next_stage, list) else [self.next_stage or ""]
        return [name for name in (self.inherits_from, self.previous_stage, *following) if name]


_Channels = Annotated[
    dict[Annotated[str, Field(pattern=r"^[0-9]{1,3}$")], Annotated[dict[_Identifier, Number], Field(max_length=20)]],
    Field(max_length=_MOST_CHANNELS),
]
_Axes = Annotated[list[int], Field(min_length=3, max_length=3)]


class _Plans(_Schema):
    """Plans, but for their configurations."""

    dataset_name: Name
    plans_name: _FileName
    original_median_spacing_after_transp: _Lengths | None = None
    original_median_shape_after_transp: _Lengths | None = None
    image_reader_writer: Annotated[str, _code("image_reader_writer")]
    transpose_forward: _Axes
    transpose_backward: _Axes
    configurations: dict[Name, _Stage] = Field(min_length=1, max_length=_MOST_ITEMS)
    experiment_planner_used: _Identifier
    label_manager: Annotated[str, _code("label_manager")]
    foreground_intensity_properties_per_channel: _Channels

    @model_validator(mode="after")
    def _check_axes(self) -> Self:
        if sorted(self.transpose_forward) != [0, 1, 2] or sorted(self.transpose_backward) != [0, 1, 2]:
            raise PydanticCustomError("axes", "transpose_forward and transpose_backward should each be 0, 1 and 2")
        return self

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        for stage in self.configurations.values():
            if not set(stage.others) <= set(self.configurations):
                raise PydanticCustomError("stage", "configurations should name each other only")
        for name in self.configurations:
            ancestors = [name]
            while parent := self.configurations[ancestors[-1]].inherits_from:
                if parent in ancestors:
                    raise PydanticCustomError("inherits_from", "no configuration should inherit from itself")
                ancestors.append(parent)
        return self


_Case = Annotated[list[Annotated[Number, Field(gt=0)]], Field(min_length=3, max_length=3)]
_Shape = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 63)]], Field(min_length=3, max_length=3)]
_MOST_CASES = 10**6


class _Fingerprint(_Schema):
    """nnU-Net's ``dataset_fingerprint.json``."""

    model_config = ConfigDict(extra="forbid")

    spacings: Annotated[list[_Case], Field(min_length=1, max_length=_MOST_CASES)]
    shapes_after_crop: Annotated[list[_Shape], Field(min_length=1, max_length=_MOST_CASES)]
    foreground_intensity_properties_per_channel: _Channels
    median_relative_size_after_cropping: Annotated[Number, Field(ge=0, le=1)]


def _validate(schema: type[_Schema], content: Mapping[str, Any], what: str, trusted: Collection[str]) -> None:
    try:
        schema.model_validate(content, context=trusted)
    except ValidationError as error:
        reason = first_problem(error)
    else:
        return
    raise NotOfAPlannerError(what, reason)


def _refuse(what: str, finding: str | None) -> None:
    if finding is not None:
        raise NotOfAPlannerError(what, finding)
