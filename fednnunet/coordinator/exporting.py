"""Exporting the global model as nnU-Net writes it, where the sites have one in common."""

import logging

import numpy as np

from fednnunet.coordinator.agreement import FoldTraining, of_weights
from fednnunet.coordinator.common_model import ask_for_model, why_there_is_none
from fednnunet.coordinator.masked_exchange import VoidSumError
from fednnunet.coordinator.model_export import export_model
from fednnunet.errors import SiteFailure
from fednnunet.events.events import PlansAgreed

logger = logging.getLogger(__name__)

_MEAN_NORMALIZATION = (
    "no site has trained with the normalization of this model, the mean of the sites' own. "
    "If sites differ, it may segment nothing. Each site has its own model, in its own "
    "results folder"
)


def learn_model(training: FoldTraining) -> None:
    """Ask sites, once, how the network is built, if they have one model in common and it is not known yet."""
    context, description = training.context, training.description
    if training.is_model_asked or context.folder.common_model() is not None:
        return
    training.is_model_asked = True
    hellos = context.registry.hellos
    reason = why_there_is_none(hellos, of_weights(description.groups), context.settings.keep_local)
    if reason is not None:
        logger.info("The sites have no model in common, %s: each keeps its own, none is exported.", reason)
        return
    model = ask_for_model(training.wait_for_quorum(), hellos, description.model)
    if model is not None:
        context.folder.keep_common_model(model)
        context.sink.emit(PlansAgreed(fingerprint=model.fingerprint, plans=model.plans))


def export(training: FoldTraining) -> None:
    """Write the global model as nnU-Net does, which is worth having even if a site never comes to validate it."""
    learn_model(training)  # all rounds may have been done when the coordinator was started again
    context, description = training.context, training.description
    if context.folder.common_model() is None:
        return
    weights = training.exchange.state["0.weights"]
    if description.at_end:
        kept = _collect(training)
        if kept is None:
            return
        weights = np.concatenate([weights, kept])
    run_dir, name = context.run_dir, context.settings.model_name
    exported = export_model(run_dir, context.fold, weights, description.model, training.schedule.epochs, name)
    if exported is not None:
        caution = _MEAN_NORMALIZATION if description.at_end else None
        context.sink.emit(exported.model_copy(update={"caution": caution}))
        logger.info("The model is in %s: nnUNetv2_install_pretrained_model_from_zip installs it.", exported.archive)


def _collect(training: FoldTraining) -> np.ndarray | None:
    """Return the mean of what stays at the sites, over those that send it; ``None`` if none does."""
    context, sites = training.context, training.wait_for_quorum()
    while sites:
        context.registry.allow(context.settings.round_timeout)
        try:
            return training.exchange.collect(sites, training.completed, training.description.sites)
        except SiteFailure as failure:
            logger.warning(
                "The mean in the exported model excludes the normalization of site %s: %s.",
                *(failure.site, failure.reason.rstrip(".")),
            )
            sites = [site for site in sites if site.name != failure.site]
        except VoidSumError as error:
            logger.warning("The normalization layers of the sites cannot be averaged: %s.", error)
            break
    logger.warning("The model is not exported: no site has sent its normalization layers.")
    return None
