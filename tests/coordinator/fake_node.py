"""A node that lives in the coordinator's process."""

from flwr.common import (
    Code,
    DisconnectRes,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    ReconnectIns,
    Scalar,
    Status,
)
from flwr.common import GetPropertiesIns as Question
from flwr.common import GetPropertiesRes as Reply
from flwr.server.client_proxy import ClientProxy

OK = Status(Code.OK, "")


class FakeNode(ClientProxy):
    """Answers questions in `respond`; has nothing to do with Flower's other calls unless a subclass says so."""

    describes = False
    """Whether it answers how its network is built."""

    def respond(self, kind: str, body: str, data: bytes) -> dict[str, Scalar]:
        raise NotImplementedError

    def get_properties(self, ins: Question, timeout: float | None, group_id: int | None) -> Reply:
        data = ins.config.get("data", b"")
        assert isinstance(data, bytes)
        if ins.config["ask"] == "describe" and not self.describes:
            return Reply(
                OK, {"failure": "the site's policy does not allow this message (rule model.allow): ask the site"}
            )
        return Reply(OK, self.respond(str(ins.config["ask"]), str(ins.config["body"]), data))

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        raise NotImplementedError

    def evaluate(self, ins: EvaluateIns, timeout: float | None, group_id: int | None) -> EvaluateRes:
        raise NotImplementedError

    def reconnect(self, ins: ReconnectIns, timeout: float | None, group_id: int | None) -> DisconnectRes:
        raise NotImplementedError

    def get_parameters(self, ins: GetParametersIns, timeout: float | None, group_id: int | None) -> GetParametersRes:
        raise NotImplementedError
