"""A connection of a node, as Flower hands it to the coordinator: a ``ClientProxy``, here with one verb."""

import logging

from flwr.common import EvaluateIns, FitIns, GetPropertiesIns, Parameters, ReconnectIns
from flwr.server.client_proxy import ClientProxy

from fednnunet.protocol.conversation import FAREWELL, TRAIN, VALIDATE, Answer, Question
from fednnunet.protocol.messages import Farewell

logger = logging.getLogger(__name__)

NO_PARAMETERS = Parameters(tensors=[], tensor_type="")
"""What Flower carries where no arrays travel."""

FAREWELL_SECONDS = 10.0


def answer_over(connection: ClientProxy, question: Question, seconds: float | None) -> Answer:
    """Ask a question over a connection.

    Raises
    ------
    FednnUNetError
        If what is answered is no answer.
    Exception
        Whatever the channel raises if the connection breaks, or there is no answer within so many seconds.
    """
    config = question.to_config()
    if question.kind == TRAIN:
        return Answer.from_config(connection.fit(FitIns(NO_PARAMETERS, config), seconds, None).metrics)
    if question.kind == VALIDATE:
        return Answer.from_config(connection.evaluate(EvaluateIns(NO_PARAMETERS, config), seconds, None).metrics)
    return Answer.from_config(connection.get_properties(GetPropertiesIns(config), seconds, None).properties)


def disconnect(connection: ClientProxy, error: str | None) -> Answer | None:
    """Tell a node why it is not needed, or not any more, and let it go; return its last words, if it has any."""
    last_words = None
    try:
        last_words = answer_over(connection, Question.of(FAREWELL, Farewell(error=error)), FAREWELL_SECONDS)
        connection.reconnect(ReconnectIns(seconds=None), FAREWELL_SECONDS, None)
    except Exception as problem:  # it has gone, or is still at work and will see the connection end
        logger.debug("A node could not be disconnected cleanly: %s", problem)
    return last_words


def hang_up(connection: ClientProxy) -> None:
    """End a connection, whether or not the node wants that."""
    bridge = getattr(connection, "bridge", None)
    if bridge is not None:
        bridge.close()
