"""How often the 95 % interval of the drop holds the true drop: ``python -m benchmarks.coverage``.

A population of 20000 simulated images with two detectors whose hits and scores are correlated, as FP32 and INT8 are. The
true drop is the population's; each draw takes some images, and its interval must hold the truth in 93 to 97 % of draws.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowbit.measure.metrics import Matches, interval_of_drops, resampled_map

LEVELS = 10


@dataclass(frozen=True)
class Population:
    """Both detectors' matches on the same images, a tuple of categories each."""

    reference: tuple[Matches, ...]
    quantized: tuple[Matches, ...]
    images: int


def simulate(images: int, categories: int, loss: float, rng: np.random.Generator) -> Population:
    """Objects, hits, scores and false positives; ``loss`` lowers the quantized detector's quality."""
    pairs = [_category(images, loss, rng) for _ in range(categories)]
    return Population(tuple(a for a, _ in pairs), tuple(b for _, b in pairs), images)


def _category(images: int, loss: float, rng: np.random.Generator) -> tuple[Matches, Matches]:
    # Images differ in difficulty, which is what makes their objects' fates correlated.
    objects = rng.poisson(rng.uniform(0.5, 1.5), images)
    difficulty = rng.normal(0, 0.7, images)
    owner = np.repeat(np.arange(images), objects)
    quality = rng.normal(1.0, 1.0, len(owner)) - difficulty[owner]
    wrong = rng.poisson(2.0, images)
    wrong_owner = np.repeat(np.arange(images), wrong)
    wrong_score = rng.normal(-1.5, 1.0, len(wrong_owner))
    out = []
    for shift, noise in ((0.0, 0.0), (loss, 0.35)):
        mine = quality - shift + noise * rng.standard_normal(len(owner))
        score = np.concatenate(
            [mine + 0.3 * rng.standard_normal(len(owner)), wrong_score + noise * rng.standard_normal(len(wrong_owner))]
        )
        # IoU follows quality: better objects are hits at more of the thresholds.
        hits = mine[None] > np.linspace(-0.8, 1.8, LEVELS)[:, None]
        true = np.concatenate([hits, np.zeros((LEVELS, len(wrong_owner)), bool)], 1)
        order = np.argsort(-score, kind="stable")
        out.append(Matches(np.concatenate([owner, wrong_owner])[order], true[:, order], ~true[:, order], objects))
    return out[0], out[1]


def take(matches: tuple[Matches, ...], picks: NDArray[np.int64]) -> tuple[Matches, ...]:
    """The matches on some of the images, renumbered."""
    out = []
    for match in matches:
        place = np.full(len(match.objects), -1)
        place[picks] = np.arange(len(picks))
        kept = place[match.image] >= 0
        part = Matches(place[match.image[kept]], match.true[:, kept], match.false[:, kept], match.objects[picks])
        if part.objects.any():
            out.append(part)
    return tuple(out)


def coverage(images: int, draws: int, categories: int, loss: float, seed: int) -> tuple[float, float, float]:
    """The true drop, the share of ``draws`` whose interval holds it, and the intervals' mean width."""
    rng = np.random.default_rng(seed)
    population = simulate(20_000, categories, loss, rng)
    everything = np.ones((1, population.images), np.int64)
    truth = float(
        resampled_map(population.reference, everything)[0] - resampled_map(population.quantized, everything)[0]
    )
    held, widths = 0, []
    for draw in range(draws):
        picks = rng.choice(population.images, images, replace=False)
        low, high = interval_of_drops(
            take(population.reference, picks), take(population.quantized, picks), images, seed=draw
        )
        held += low <= truth <= high
        widths.append(high - low)
    return truth, held / draws, float(np.mean(widths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400)
    options = parser.parse_args()
    print("| images | classes | true drop, points | held | mean width, points |\n|---:|---:|---:|---:|---:|")
    for images in (100, 200, 500):
        for categories in (3, 10):
            for loss in (0.0, 0.05, 0.2):
                truth, held, width = coverage(images, options.draws, categories, loss, seed=images + categories)
                print(f"| {images} | {categories} | {truth * 100:.2f} | {held:.1%} | {width * 100:.2f} |", flush=True)


if __name__ == "__main__":
    main()
