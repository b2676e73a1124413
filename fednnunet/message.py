"""The base of everything that travels or is kept as JSON: schemas that are validated on arrival."""

from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from fednnunet.errors import FednnUNetError


class Message(BaseModel):
    """Base of all messages: immutable, and strict about its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    def to_json(self) -> str:
        """Return the message as JSON text; NaN and infinities become ``null``."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the message that `text` holds.

        Raises
        ------
        FednnUNetError
            If `text` is not a message of this class.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "message"
            raise FednnUNetError(f"A {cls.__name__} message is malformed: {where}: {first['msg']}.") from error
