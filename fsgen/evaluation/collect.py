"""Pass over a set of images once for all metrics; features of networks are cached on disk."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fsgen.callbacks import Callbacks
from fsgen.evaluation import accumulators
from fsgen.evaluation.accumulators import Collected, required
from fsgen.evaluation.image_sets import EvaluationSet
from fsgen.evaluation.metric_networks import MetricNetworks
from fsgen.evaluation.protocols import Protocol
from fsgen.io import feature_cache
from fsgen.metrics.pairwise_lpips import Clusters

DIVERSE = 500  # images whose pairwise distances are taken in the discriminator's features; bounds the memory
SHOWN = 64  # thumbnails of a set that is not evaluated itself


@dataclass(frozen=True)
class Collector:
    """The networks and metrics of one evaluation, applied to each of its image sets."""

    networks: MetricNetworks
    resolution: int  # px, of what is evaluated: LPIPS compares images of one size only
    metrics: list[str]
    protocol: Protocol
    batch: int
    callbacks: Callbacks

    def collect(self, images: EvaluationSet, *, most: int | None = None, shown: int = SHOWN) -> Collected:
        """Pass over ``images`` once.

        Args:
            images: the set.
            most: images to use for the metrics that do not need the whole set, as FID does.
            shown: thumbnails to store.
        """
        n = min(images.n, max(most or images.n, DIVERSE))
        cached = {} if images.kind == "subject" else self._cached(images)
        new = {
            space: accumulators.AllFeatures(network)
            for space, network in self.networks.features.items()
            if space not in cached
        }
        collected = self._accumulators(images, n, shown)
        total, done = images.n if new else n, 0
        with torch.no_grad():
            for part in images.batches(self.batch, total):
                for accumulator in (*new.values(), *collected.accumulators()):
                    accumulator.add(part)
                done += len(part)
                self.callbacks.progress(images.name, done, total)
        features = {space: accumulator.value for space, accumulator in new.items()}
        if images.kind != "subject":
            self._cache(images, features)
        collected.n, collected.features = min(done, n), cached | features
        return collected

    def _accumulators(self, images: EvaluationSet, n: int, shown: int) -> Collected:
        """Set up the accumulators that the metrics need."""
        wanted, collected = set(self.metrics), Collected(accumulators.Thumbnails(shown))
        if images.resolution != self.resolution:  # a source of another size
            wanted -= {"lpips", "dissimilarity", "intra_lpips"}
        if wanted & {"lpips", "dissimilarity"}:
            collected.lpips = accumulators.PairwiseLpips(required(self.networks.alexnet), n)
        if "intra_lpips" in wanted and images.kind != "real":
            rules = self.protocol
            clusters = Clusters(
                required(self.networks.shot_points),
                per_cluster=rules.intra_per_cluster,
                empty=rules.intra_empty,
            )
            collected.clusters = accumulators.ShotClusters(
                required(self.networks.vgg), rules.intra_samples, clusters
            )
        if wanted & {"diversity", "leakage", "correspondence", "near_copies"}:
            most = n if "near_copies" in wanted else 0
            judge = required(self.networks.discriminator)
            collected.discriminator = accumulators.DiscriminatorPoints(judge, DIVERSE, most)
        return collected

    def _cached(self, images: EvaluationSet) -> dict[str, Tensor]:
        """Features of exactly these images from the cache, by space."""
        found = {}
        for space in self.networks.features:
            entry = feature_cache.lookup(self._key(images, space), self.callbacks.say)
            if entry is not None and (images.stream is None or images.stream.load_scan_state(entry.about)):
                found[space] = entry.features
        return found

    def _cache(self, images: EvaluationSet, features: dict[str, Tensor]) -> None:
        about = {} if images.stream is None else images.stream.scan_state()
        for space, values in features.items():
            feature_cache.store(self._key(images, space), values, about, self.callbacks.say)

    def _key(self, images: EvaluationSet, space: str) -> dict[str, str]:
        network = self.networks.features[space]
        return {"images": images.key, "network": network.key, "device": network.device.type}
