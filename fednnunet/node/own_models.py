"""Trains a site's own models after the federation: a personal one, and one trained alone.

Each is trained like a federation of one site, round by round without any exchange, so that the hooks of any trainer,
its log, its checkpoints and recovery work as in `FederatedRounds`. No part of these models leaves the site.
"""

import logging

from fednnunet.background import Tracker
from fednnunet.errors import FednnUNetError
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.kept_states import KeptStates
from fednnunet.node.own_trainer import OwnTrainer, fold_folder
from fednnunet.node.rounds import FederatedRounds
from fednnunet.protocol.messages import OwnTrained, OwnTraining, Start
from fednnunet.settings.node import TrainingSettings

logger = logging.getLogger(__name__)


def train_own_model(
    settings: TrainingSettings, dataset: SiteDataset, asked: OwnTraining, tracker: Tracker
) -> OwnTrained:
    """Train and validate one of a site's own models; continue an unfinished one, and keep a finished one.

    Parameters
    ----------
    settings
        The node's settings.
    dataset
        The site's dataset.
    asked
        Which model, and how long.
    tracker
        Can stop it.

    Raises
    ------
    FednnUNetError
        If the site has not finished the federated training that `asked` names.
    Stopped
        If it shall not be trained to its end.
    """
    trainer = OwnTrainer(settings, dataset, asked)
    states, epochs = KeptStates(trainer.folder), asked.schedule.epochs
    if not KeptStates(fold_folder(settings, dataset, asked.fold)).is_final(asked.run):
        raise FednnUNetError(
            f"the coordinator asks for an additional model of a training of fold {asked.fold} which this site has not "
            "finished, or of which it has no checkpoint (--disable_checkpointing)"
        )
    name = trainer.name
    if states.is_final(name) and not states.all():
        logger.info("The %s model of fold %s already exists.", asked.model, asked.fold)
        return OwnTrained(epochs=epochs)
    if not states.is_begun(name):
        trainer.set_aside()
        states.begin(name, overwrite=False)
    begun = [state.round for state in states.all() if state.run == name]
    for completed in (*reversed(begun), 0):
        rounds = FederatedRounds(settings, dataset, asked.fold, trainer)
        try:
            ready, _ = rounds.start(Start(fold=asked.fold, schedule=asked.schedule, run=name, completed=completed))
            if completed and not ready.restored:
                continue  # what was kept last is damaged
            for number in range(completed + 1, epochs + 1):
                rounds.train(tracker)
                rounds.validate(number, None)
                rounds.end_epoch()
            rounds.finish()
            break
        finally:
            rounds.close()
    logger.info("The %s model of fold %s is in %s.", asked.model, asked.fold, trainer.folder.parent)
    return OwnTrained(epochs=epochs)
