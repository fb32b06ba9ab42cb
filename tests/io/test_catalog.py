from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest

from fsgen.io.catalog import catalog
from fsgen.io.download import drive_id
from fsgen.registry import FAMILIES


@pytest.mark.parametrize("entry", catalog().values(), ids=list(catalog()))
def test_every_entry_can_be_fetched_and_judged(entry):
    assert re.fullmatch(r"[a-z0-9-]+", entry.name)
    address = entry.url
    assert (
        re.fullmatch(r"https://[^/\s]+/\S+\.(pkl|pt|pth|safetensors|tar\.gz)", address)
        or re.fullmatch(r"hf://[^/\s]+/[^/\s]+/\S+", address)
        or re.fullmatch(r"bundled:[\w.-]+\.safetensors", address)
        or drive_id(address)
    )
    assert entry.family in FAMILIES
    assert entry.resolution in [2**n for n in range(5, 11)]
    assert isinstance(entry.commercial, bool)
    assert entry.commercial or "commercial" in entry.terms
    assert entry.subject and entry.licence and "\n" not in entry.terms
    assert entry.tags and all(isinstance(tag, str) for tag in entry.tags)
    assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", entry.sha256)


def test_each_file_is_listed_once():
    urls = [entry.url for entry in catalog().values()]
    assert len(set(urls)) == len(urls)


def test_the_bundled_source_is_free_to_use():
    entry = catalog()["peeps64"]
    assert entry.commercial and entry.licence == "CC0-1.0" and "Pablo Stanley" in entry.subject


def test_entries_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        catalog()["peeps64"].commercial = False
    catalog().clear()
    assert catalog()


def test_listing_needs_no_torch():
    code = """
import sys
from fsgen.io import catalog, download
catalog.catalog()["ffhq"]
sys.exit("torch" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
