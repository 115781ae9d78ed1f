"""How far back a gradient reaches: the vanishing gradient, measured."""

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.data.labels import IGNORED
from pipeline.models.recurrent import RecurrentClassifier
from pipeline.training.sequences import Sequences, Windows, gather

MOST_VIDEOS = 16
MOST_STEPS = 512


def gradient_by_distance(network: RecurrentClassifier, sequences: Sequences) -> Tensor:
    """Norm of the gradient that the answer at a timestep sends to the input so many timesteps before it.

    The loss is the cross-entropy at the last labelled timestep t of each of the first videos, without dropout; its
    gradient with respect to the features x_{t-k} is what training could learn from an input k steps before. In a chain
    of k steps it is a product of k Jacobians dh_s/dh_{s-1}, and so falls (or grows) exponentially with k unless
    something keeps their norm near 1 (Bengio, Simard & Frasconi 1994; Pascanu, Mikolov & Bengio 2013, eq. 3-5).

    Returns:
        (S,) float32 on the CPU: at k the mean over the videos that have so many steps; S of at most MOST_STEPS.
    """
    device = sequences.device
    chosen: list[tuple[int, int, int, int, int]] = []
    for video, (begin, end) in enumerate(
        zip(sequences.offsets[:-1].tolist(), sequences.offsets[1:].tolist(), strict=True)
    ):
        labelled = (sequences.labels[begin:end] != IGNORED).nonzero()
        if len(labelled) and len(chosen) < MOST_VIDEOS:
            stop = int(labelled[-1]) + 1
            size = min(stop, MOST_STEPS)
            chosen.append((video, stop - size, size, 0, 0))
    batch = gather(sequences, Windows(*torch.tensor(chosen).unbind(dim=1)))
    features = batch.features.requires_grad_()
    was_training = network.training
    network.eval()
    # cuDNN differentiates recurrent networks in training mode alone, which would bring dropout.
    with torch.backends.cudnn.flags(enabled=False), torch.enable_grad():
        logits, _ = network(features, batch.lengths)
        last = torch.arange(len(chosen), device=device), (batch.lengths - 1).to(device)
        loss = functional.cross_entropy(logits[last].float(), batch.labels[last], reduction="sum")
        (gradient,) = torch.autograd.grad(loss, features)
    network.train(was_training)
    sums = torch.zeros(features.shape[1])
    counts = torch.zeros(features.shape[1])
    for norms, length in zip(gradient.norm(dim=-1).cpu(), batch.lengths.tolist(), strict=True):
        sums[:length] += norms[:length].flip(0)
        counts[:length] += 1
    return sums / counts
