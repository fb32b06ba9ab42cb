"""One pass over a set of images for all metrics at once; features of networks are kept in a cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fsgen.callbacks import Callbacks
from fsgen.data.images import ImageSet
from fsgen.evaluation import accumulators
from fsgen.evaluation.extractors import Networks
from fsgen.evaluation.image_sets import Subject
from fsgen.evaluation.protocols import Protocol
from fsgen.evaluation.scores import Seen
from fsgen.io import feature_cache
from fsgen.metrics.pairwise_lpips import Clusters

DIVERSE = 500  # images whose mutual distances are taken in the discriminator's features; bounds the memory
SHOWN = 64  # thumbnails of a set that is not what is evaluated


@dataclass(frozen=True)
class Sight:
    """What looks at sets of images, and for which metrics."""

    networks: Networks
    resolution: int  # px, of what is evaluated: LPIPS compares pictures of one size only
    metrics: list[str]
    protocol: Protocol
    training: ImageSet | None
    batch: int
    callbacks: Callbacks

    def look(self, subject: Subject, *, most: int | None = None, shown: int = SHOWN) -> Seen:
        """One pass.

        Args:
            subject: the images.
            most: how many of them are enough for all metrics but those of whole sets (FID and its kin).
            shown: how many thumbnails to keep.
        """
        enough = min(subject.n, max(most or subject.n, DIVERSE))
        cached = {} if subject.kind == "subject" else self._cached(subject)
        new = {
            space: accumulators.Features(network)
            for space, network in self.networks.features.items()
            if space not in cached
        }
        others = self._others(subject, enough, shown)
        total = subject.n if new else enough
        done = 0
        with torch.no_grad():
            for images in subject.batches(self.batch, total):
                for keeper in (*new.values(), *others.values()):
                    keeper.take(images)
                done += len(images)
                self.callbacks.progress(subject.name, done, total)
        features = cached | {space: keeper.value for space, keeper in new.items()}
        if subject.kind != "subject":
            self._keep(subject, {space: features[space] for space in new})
        return Seen(min(done, enough), features, **others)

    def _others(self, subject: Subject, enough: int, shown: int) -> dict[str, accumulators.Accumulator]:
        """Keepers by their name in ``Seen``."""
        wanted, chosen = set(self.metrics), {"album": accumulators.Album(shown)}
        if subject.resolution != self.resolution:  # a source of another size
            wanted -= {"lpips", "dissimilarity", "intra_lpips"}
        if wanted & {"lpips", "dissimilarity"}:
            chosen["distances"] = accumulators.Distances(self.networks.lpips, enough)
        if "intra_lpips" in wanted and subject.kind != "real":
            rules = self.protocol
            clusters = Clusters(
                self.networks.anchors, per_cluster=rules.intra_per_cluster, empty=rules.intra_empty
            )
            chosen["groups"] = accumulators.Groups(self.networks.groups, rules.intra_samples, clusters)
        if wanted & {"diversity", "leakage", "correspondence", "near_copies"}:
            most = enough if "near_copies" in wanted else 0
            chosen["judged"] = accumulators.Judged(self.networks.discriminator, DIVERSE, most)
        return chosen

    def _cached(self, subject: Subject) -> dict[str, Tensor]:
        """Features of exactly these images that were computed before, by space."""
        found = {}
        for space in self.networks.features:
            entry = feature_cache.lookup(self._key(subject, space), self.callbacks.say)
            if entry is not None and (subject.pile is None or subject.pile.load_scan_state(entry.about)):
                found[space] = entry.features
        return found

    def _keep(self, subject: Subject, features: dict[str, Tensor]) -> None:
        about = {} if subject.pile is None else subject.pile.scan_state()
        for space, values in features.items():
            feature_cache.store(self._key(subject, space), values, about, self.callbacks.say)

    def _key(self, subject: Subject, space: str) -> dict[str, str]:
        network = self.networks.features[space]
        return {"images": subject.key, "network": network.key, "device": network.device.type}
