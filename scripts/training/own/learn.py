"""Trains the heads, and what of the encoder the recipe lets learn, until dev no longer gets better."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from tqdm import tqdm

from classifiers.library import LibraryEncoder
from classifiers.network import PromptClassifier
from classifiers.packing import pack, pad, pool
from classifiers.tokenizer import PromptTokenizer, Tokenized
from scripts.evaluating.report import confusion, summarise
from scripts.training.adapters import adapt
from scripts.training.data import NO_LABEL
from scripts.training.learn import Learner, epoch_batches
from scripts.training.own.data import Example
from scripts.training.own.encoder import Encoder
from scripts.training.own.recipe import ADAPTER_RANK, Recipe
from scripts.training.own.state import Progress, StateFile

Labels = Mapping[str, Sequence[str]]


class LearningError(Exception):
    """One line: why nothing came of a training."""


@dataclass(frozen=True)
class Lesson:
    """Texts as token ids, cut as they are when serving, and what is true of them: `truth` [N, heads] int64, numbers of
    labels or NO_LABEL. `tokens` [N, 2]: read, and in the text."""

    ids: Sequence[NDArray[np.int32]]
    tokens: NDArray[np.int32]
    truth: NDArray[np.int64]


def read_lesson(tokenized: Tokenized, examples: Sequence[Example], labels: Labels) -> Lesson:
    """The examples' texts and labels as numbers."""
    ids, tokens = PromptTokenizer(tokenized).encode([example.text.encode() for example in examples])
    return Lesson([row[row >= 0] for row in ids], tokens, true_labels(examples, labels))


def true_labels(examples: Sequence[Example], labels: Labels) -> NDArray[np.int64]:
    """[N, heads]: the number of each example's label, or NO_LABEL."""
    numbers = {head: {label: number for number, label in enumerate(names)} for head, names in labels.items()}
    rows = [
        [known[each.labels[head]] if head in each.labels else NO_LABEL for head, known in numbers.items()]
        for each in examples
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, len(labels))


def head_slices(labels: Labels) -> list[slice]:
    """Where each head's logits stand."""
    ends = np.cumsum([len(names) for names in labels.values()]).tolist()
    return [slice(end - len(names), end) for end, names in zip(ends, labels.values(), strict=True)]


def untrained_network(encoder: Encoder, labels: Labels, recipe: Recipe) -> PromptClassifier:
    """The encoder with fresh heads; what the recipe lets learn asks for gradients.

    Full training leaves the embeddings alone: few texts hold few of the words, and those that they do not hold would
    stay behind while the others move. They are also most of a small encoder's weights.
    """
    torch.manual_seed(recipe.seed)
    module = encoder.module.requires_grad_(False)
    if recipe.method == "low-rank":
        adapt(module, linear_layers(module), ADAPTER_RANK)
    if recipe.method == "full":
        module.requires_grad_(True)
        embeddings = [
            each for name, each in module.named_modules() if isinstance(each, nn.Embedding) or name == "embeddings"
        ]
        for each in embeddings:
            each.requires_grad_(False)
    return PromptClassifier(LibraryEncoder(module), sum(map(len, labels.values()))).eval()


def linear_layers(module: nn.Module) -> list[str]:
    """The names of an encoder's linear layers, all of which get adapters."""
    return [name for name, each in module.named_modules() if isinstance(each, nn.Linear)]


def learn(
    network: PromptClassifier, train: Lesson, dev: Lesson, labels: Labels, recipe: Recipe, state: StateFile
) -> Progress:
    """Trains the network, on the device where its heads are, and leaves it with the weights of the best epoch.

    After each epoch the state is saved; what is there of the same training is gone on from.

    Raises LearningError: the loss has left the numbers.
    """
    steps = -(-len(train.ids) // recipe.rows_per_step)
    learner = Learner(_rates(network, recipe), recipe.epochs * steps, recipe.warmup)
    progress = _resume(network, learner, state)
    started = time.monotonic()
    train_logits, dev_logits = _begin(network, train, dev, labels, recipe, is_new=not progress.epochs)
    loss_of = _Loss(train, labels, class_weights(train.truth, labels, recipe), recipe.smoothing)
    dev_loss_of = _Loss(dev, labels, [None] * len(labels), smoothing=0.0)
    with tqdm(total=recipe.epochs * steps, initial=progress.epochs * steps, unit="step", desc="training") as bar:
        while progress.epochs < min(recipe.epochs, progress.best_epoch + recipe.patience):
            # Of the seed and the epoch alone, so that going on needs no state of a generator.
            order = np.random.default_rng((recipe.seed, progress.epochs))
            torch.manual_seed(int(order.integers(2**63)))  # dropout's
            network.train(recipe.dropout)
            losses = []
            for chosen in epoch_batches(train.ids, recipe.rows_per_step, order):
                losses.append(learner.step(loss_of(train_logits(chosen), chosen)))
                bar.set_postfix(loss=f"{losses[-1]:.3f}", dev_f1=f"{(progress.f1 or [0.0])[-1]:.3f}", refresh=False)
                bar.update()
            network.eval()
            logits = dev_logits()
            dev_loss = float(dev_loss_of(torch.from_numpy(logits), range(len(logits))))
            progress.add(float(np.mean(losses)), mean_f1(logits, dev.truth, labels), dev_loss)
            if not np.isfinite(progress.losses[-1] + dev_loss):
                raise LearningError("the loss is no number any more: try a lower --learning-rate")
            if progress.best_epoch == progress.epochs:
                progress.best = learnt(network)
            progress.seconds += time.monotonic() - started
            started = time.monotonic()
            state.save(progress, _learning(network, learner))
    network.load_state_dict(progress.best, strict=False)
    return progress


def mean_f1(logits: NDArray[np.float32], truth: NDArray[np.int64], labels: Labels) -> float:
    """Macro F1 of the likeliest labels, averaged over the heads; `logits` [N, all labels], `truth` [N, heads]."""
    found = []
    for number, (names, rows) in enumerate(zip(labels.values(), head_slices(labels), strict=True)):
        known = truth[:, number] != NO_LABEL
        answers = logits[known][:, rows].argmax(axis=1)
        found.append(summarise(confusion(answers, truth[known, number], len(names)), None, names).macro_f1)
    return float(np.mean(found))


def start_heads(heads: nn.Linear, vectors: Tensor, truth: NDArray[np.int64], labels: Labels) -> None:
    """Each label's row points from the middle of all `vectors` [N, hidden] to that of its own, with length 1.

    As in Snell et al., "Prototypical Networks for Few-shot Learning" (2017), a label is the mean of its texts; a head
    that starts so is right about most of them before it has learnt anything.
    """
    middle = vectors.mean(dim=0)
    with torch.no_grad():
        for column, names, rows in zip(truth.T, labels.values(), head_slices(labels), strict=True):
            means = [vectors[column == number].mean(dim=0) for number in range(len(names))]
            weight = normalize(torch.stack(means) - middle, dim=1)
            heads.weight[rows], heads.bias[rows] = weight, -weight @ middle


def class_weights(truth: NDArray[np.int64], labels: Labels, recipe: Recipe) -> list[Tensor | None]:
    """For each head what a row of each label weighs; `balanced`: each label as much as any other, all rows together
    as much as they are."""
    if recipe.class_weights == "none":
        return [None] * len(labels)
    counts = [
        np.bincount(column[column != NO_LABEL], minlength=len(names))
        for column, names in zip(truth.T, labels.values(), strict=True)
    ]
    # A label whose rows are all in dev has none to weigh.
    return [torch.tensor(each.sum() / (len(each) * each.clip(min=1)), dtype=torch.float32) for each in counts]


def logits_of(network: PromptClassifier, ids: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
    """[N, all labels], in the order of the texts."""
    return np.concatenate(network.classify([row[None] for row in ids]))


def learnt(network: nn.Module) -> dict[str, Tensor]:
    """A copy of what learns, on the CPU."""
    return {name: each.detach().cpu().clone() for name, each in network.named_parameters() if each.requires_grad}


class _Loss:
    """Cross entropy, summed over the heads that a text has a label for, averaged over the texts of a step."""

    def __init__(self, lesson: Lesson, labels: Labels, weights: Sequence[Tensor | None], smoothing: float) -> None:
        self._truth, self._heads = torch.from_numpy(lesson.truth), head_slices(labels)
        self._weights, self._smoothing = weights, smoothing

    def __call__(self, logits: Tensor, chosen: Sequence[int]) -> Tensor:
        truth = self._truth[list(chosen)].to(logits.device)
        loss = torch.zeros((), device=logits.device)
        for number, (head, weight) in enumerate(zip(self._heads, self._weights, strict=True)):
            losses = cross_entropy(
                logits[:, head],
                truth[:, number],
                weight=None if weight is None else weight.to(logits.device),
                ignore_index=NO_LABEL,
                reduction="none",
                label_smoothing=self._smoothing,
            )
            loss = loss + losses.sum() / len(chosen)
        return loss


def _rates(network: PromptClassifier, recipe: Recipe) -> list[tuple[float, list[nn.Parameter]]]:
    heads = list(network.heads.parameters())
    encoder = [parameter for parameter in network.encoder.parameters() if parameter.requires_grad]
    return [(rate, group) for rate, group in ((recipe.learning_rate, encoder), (recipe.heads_rate, heads)) if group]


def _begin(
    network: PromptClassifier, train: Lesson, dev: Lesson, labels: Labels, recipe: Recipe, is_new: bool
) -> tuple[Callable[[Sequence[int]], Tensor], Callable[[], NDArray[np.float32]]]:
    """How to get the logits of some training rows, with gradients, and those of all dev rows. The heads of a training
    that `is_new` are given their start."""
    device = str(network.heads.weight.device)
    if is_new or recipe.method == "frozen":
        vectors = _vectors(network, train, "reading")
    if is_new:
        start_heads(network.heads, vectors, train.truth, labels)
    if recipe.method == "frozen":  # whose vectors stay what they are
        dev_vectors = _vectors(network, dev, "reading dev")

        def heads(chosen: Sequence[int]) -> Tensor:
            logits: Tensor = network.heads(vectors[chosen])
            return logits

        return heads, lambda: network.heads(dev_vectors).detach().cpu().numpy()

    def whole(chosen: Sequence[int]) -> Tensor:
        # A CPU multiplies float32 faster, unless it has matrix units.
        with torch.autocast("cuda", torch.bfloat16, enabled=device != "cpu"):
            logits: Tensor = network(pad([train.ids[number] for number in chosen], device))
        return logits.float()

    return whole, lambda: logits_of(network, dev.ids)


def _vectors(network: PromptClassifier, lesson: Lesson, what: str) -> Tensor:
    """[N, hidden]: the mean of each text's vectors."""
    device = str(network.heads.weight.device)
    found = torch.empty(len(lesson.ids), network.heads.in_features, device=device)
    with torch.no_grad(), tqdm(total=len(lesson.ids), unit="text", desc=what) as bar:
        for packed in pack(lesson.ids, device, positions=network.max_positions):
            found[list(packed.prompts)] = pool(network.encoder(packed), packed.groups)
            bar.update(len(packed.prompts))
    return found


def _learning(network: PromptClassifier, learner: Learner) -> dict[str, Any]:
    return {
        "weights": learnt(network),
        "optimizer": learner.optimizer.state_dict(),
        "schedule": learner.schedule.state_dict(),
    }


def _resume(network: PromptClassifier, learner: Learner, state: StateFile) -> Progress:
    found = state.load()
    if found is None:
        return Progress()
    if isinstance(found, str):
        print(f"the training in {state.out} starts anew: {found}")
        return Progress()
    progress, learning = found
    network.load_state_dict(learning["weights"], strict=False)
    learner.optimizer.load_state_dict(learning["optimizer"])
    learner.schedule.load_state_dict(learning["schedule"])
    print(f"going on after epoch {progress.epochs}, from {state.path}")
    return progress
