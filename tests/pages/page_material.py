"""Small made-up reports and page contents."""

from __future__ import annotations

import copy
from html.parser import HTMLParser

import torch
from torch import Tensor

from fsgen.pages.contents import Cluster, Neighbour, PageContents

LAYERS = ("mapping.fc0", "b4.conv1", "b8.conv0", "b8.torgb")
VOID = {"meta", "img", "link", "br", "hr", "input", "path", "circle"}


def images(n: int, side: int = 16, seed: int = 0, channels: int = 3) -> Tensor:
    """Noise, uint8 [n, channels, side, side]."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, side, side), generator=rng, dtype=torch.uint8)


def report(title: str = "runs/sketches", fid: float = 61.2, half: float = 3.0) -> dict:
    """A report with every part."""
    scores = {
        "fid": {"value": fid, "low": fid - half, "high": fid + half},
        "kid": {"value": 0.0412, "low": 0.0387, "high": 0.0444},
        "diversity": {"value": 0.41, "low": 0.39, "high": 0.43},
        "near_copies": {"value": 0.97, "low": 0.95, "high": 0.98},
    }
    source = {"fid": {"value": 112.0, "low": None, "high": None}}
    real = {"diversity": {"value": 0.523, "low": None, "high": None}}
    return copy.deepcopy({
        "schema": "fsgen-report/1", "fsgen": "0.1.0", "date": "2026-11-21", "title": title,
        "run": {
            "model": {"file": "model.safetensors", "hash": "a" * 64},
            "source": {"name": "peeps64", "hash": "b" * 64, "licence": "CC0-1.0"},
            "images": {"count": 10, "digest": "c" * 64},
            "method": {"ewc": {"lambda": "967", "samples": 256, "proxy": "adversarial"}},
            "steps": 400, "batch": 4, "seed": 0, "trained_parameters": 1_000_000,
            "cost": {"seconds": 109.0, "peak_rss_mb": 1100, "device": "cpu", "threads": 2},
        },
        "evaluation": {
            "path": title,
            "what": {"kind": "model", "title": "peeps64 with ewc", "hash": "a" * 64, "licence": "CC0-1.0"},
            "real": {"path": "sketches.zip", "count": 5000, "digest": "d" * 64, "skipped": 3},
            "shots": {"count": 10, "digest": "c" * 64, "skipped": 0},
            "source": {"title": "peeps64", "hash": "b" * 64},
            "protocol": {"name": "cdc", "choices": [
                {"what": "samples", "value": "1000", "source": "CDC's code"},
                {"what": "truncation", "value": "1", "source": "not stated"},
            ]},
            "settings": {
                "samples": 1000, "seed": 0, "truncation": 1.0, "resolution": 64, "fit": "crop",
                "weights": {"inception": {"file": "inception-2015-12-05.pt", "sha256": "e" * 64}},
            },
            "near_copy": {"space": "the discriminator of peeps64", "threshold": 0.41, "percentile": 5},
            "rows": [
                {"name": title, "kind": "subject", "n": 1000, "metrics": scores},
                {"name": "source", "kind": "source", "n": 1000, "metrics": source},
                {"name": "real", "kind": "real", "n": 5000, "metrics": real},
            ],
            "flags": [{"name": "near_copies", "value": 0.97, "text": "97% of the samples repeat a picture"}],
            "left_out": {"clip_fid": {"why": "no weights", "remedy": "fsgen pull metrics --everything"}},
            "warnings": ["FID against 10 images is unreliable"],
            "seconds": 31.2,
        },
    })  # fmt: skip


def contents(side: int = 16, n: int = 12) -> PageContents:
    """Contents with every part."""
    samples, shots = images(n, side, 1), images(10, side, 2)
    neighbours = [
        Neighbour(s, shots[i % 10], 0.1 * i, i < 4, i if i else None) for i, s in enumerate(samples)
    ]
    clusters = [Cluster(shots[i], samples[: i + 1], 7 * i + 1, 0.4 if i else None) for i in range(6)]
    history = [{"step": s, "d": 1.4, "g": 0.7 + s / 100, "ewc": float(s - 1)} for s in range(1, 9)]
    history[0]["r1"] = 0.25
    layers = {name: 10.0**-i for i, name in enumerate(LAYERS)}
    return PageContents(
        samples, shots, images(n, side, 3), (images(8, side, 4), images(8, side, 5)), neighbours, clusters,
        history, layers, {name: 0.02 for name in LAYERS},
        (images(4, side, 6), images(4, side, 7), images(4, side, 8)), images(1, 4 * side, 9)[0],
    )  # fmt: skip


class Page(HTMLParser):
    """A parsed page; fails if tags are not closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        assert len(ids) == len(set(ids)), "an id is there twice"

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len({name for name, _ in attrs}), f"an attribute of {tag} is there twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        """The text, with single spaces."""
        return " ".join(" ".join(self.words).split())

    @property
    def images(self) -> list[dict[str, str]]:
        """Attributes of every image but charts."""
        return [each for each in self.all("img") if each["src"].startswith("data:image/webp")]

    @property
    def charts(self) -> list[dict[str, str]]:
        """Attributes of every chart."""
        return [each for each in self.all("img") if each["src"].startswith("data:image/svg+xml")]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of every ``tag``."""
        return [attributes for name, attributes in self.tags if name == tag]
