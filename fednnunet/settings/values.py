"""The values of flags, read from words."""

import argparse
import re

from fednnunet.errors import FednnUNetError
from fednnunet.transport.address import read_host

DEFAULT_MODEL_NAME = "Dataset999_FedNNUNet"


def split_words(text: str) -> list[str]:
    """Return the values in one word of a command line, which spaces or commas separate; quotes in it do not count."""
    return [word for word in re.split(r"[\s,;'\"]+", text) if word]


def positive_int(text: str) -> int:
    """Return `text` as an integer of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def positive_float(text: str) -> float:
    """Return `text` as a finite number above 0, for argparse."""
    value = non_negative_float(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is too small")
    return value


def non_negative_float(text: str) -> float:
    """Return `text` as a finite number of at least 0, for argparse."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value} is not a finite number of at least 0")
    return value


def port_number(text: str) -> int:
    """Return `text` as a TCP port, for argparse."""
    value = int(text)
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{value} is not a port, give one from 1 to 65535")
    return value


def dataset_name(text: str) -> str:
    """Return `text` if it can be the name of a dataset of nnU-Net, for argparse."""
    if not re.fullmatch(r"Dataset(?!000)[0-9]{3}_[A-Za-z0-9_-]{1,80}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a dataset name, give one such as {DEFAULT_MODEL_NAME}")
    return text


def host_name(text: str) -> str:
    """Return `text` as the name or address of a host, for argparse."""
    try:
        return read_host(text)
    except FednnUNetError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
