"""Reads and validates TOML files that people write."""

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from fednnunet.errors import FednnUNetError
from fednnunet.schema import first_problem

Content = TypeVar("Content")


def read_toml(path: Path, schema: TypeAdapter[Content], what: str, flag: str) -> Content:
    """Read a file.

    Parameters
    ----------
    path
        The file.
    schema
        What must be in it.
    what
        What the file is called in errors.
    flag
        The flag that has named it.

    Raises
    ------
    FednnUNetError
        If it cannot be read, is no TOML, or something in it is wrong.
    """
    try:
        return schema.validate_python(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise FednnUNetError(f"The {what} {path} cannot be read ({error.strerror}): correct {flag}.") from error
    except ValidationError as error:
        raise FednnUNetError(f"The {what} {path} is wrong at {first_problem(error)}: correct it.") from None
    except ValueError as error:  # no TOML, or no UTF-8
        raise FednnUNetError(f"The {what} {path} is not valid TOML ({error}): correct it.") from error
